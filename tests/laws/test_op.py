"""Laws of operators: inputs from a schema, what is asked of an author, what does not concern an operator."""

from __future__ import annotations

import torch
from tests.mutants import op as planted
from torch import Tensor

from mapsto.check.targets import of_target
from mapsto.core.laws import Example, Subject, Trial, find_law, verdict
from mapsto.testing import judge_law
from mapsto.torch.laws.op_memory import ZONE, Zone


def judged(target, law, **fields):
    subject = Subject(kind="op", label="here:thing", reference="", target=target, example=Example(**fields))
    return verdict(Trial(subject, find_law(law)))


def test_the_kind_of_an_operator_is_told():
    assert of_target(planted.SQUARE, reference="tests.mutants.op:SQUARE").kind == "op"
    assert of_target(torch.ops.mapsto_mutants.square.default, reference="x:y").kind == "op"


def test_it_is_found_by_its_import_path():
    assert judge_law("tests.mutants.op:SQUARE", "op.layout").status == "pass"
    assert judge_law("tests.mutants.op:RAW_SQUARE", "op.layout").status == "fail"


def test_inputs_are_made_from_the_schema():
    assert judged(planted.SCALED, "op.opcheck").status == "pass"
    assert judged(planted.scaled, "op.purity").status == "pass"


def test_options_are_arguments_by_name():
    made = judged(planted.SCALED, "op.guard_zones", args={"k": 3.0})
    assert made.status == "pass"
    assert made.counts["zones"] >= 12


def only_ids(ids: Tensor, table: Tensor) -> Tensor:
    return table[ids]


def test_inputs_that_cannot_be_guessed_are_asked_for():
    made = judged(only_ids, "op.purity")
    assert made.status == "unknown"
    assert "raised IndexError" in made.reason
    assert "mapsto.example(\n      thing,\n      inputs=lambda size, generator:" in made.reason


def test_several_overloads_have_to_be_told_apart():
    made = judged(torch.ops.aten.add, "op.purity")
    assert made.status == "unknown"
    assert "check one of them" in made.reason


def test_what_does_not_concern_an_operator_says_so():
    reasons = {
        "op.opcheck": (planted.doubled, "plain function"),
        "op.gradients": (planted.SCALED, "registers no backward"),
        "op.reference": (planted.SQUARE, "mapsto.example(op, reference="),
        "op.compiled_mutation": (planted.SQUARE, "writes to no input"),
    }
    for law, (target, said) in reasons.items():
        made = judged(target, law)
        assert (made.status, said in made.reason) == ("not applicable", True), (law, made)


def test_a_declared_draw_and_a_declared_dtype():
    assert judged(planted.noisy, "op.purity", tags=frozenset({"stochastic"})).status == "pass"
    stated = {"reference": planted.pure, "dtypes": (torch.float32, torch.bfloat16)}
    assert judged(planted.pure, "op.reference", more=stated).status == "pass"
    refused = judged(lambda x: x.double() * 2 if x.dtype == torch.bfloat16 else x * 2, "op.reference",
                     inputs=planted.ONE.inputs, more=stated)  # fmt: skip
    assert refused.status == "fail"
    assert refused.reason == "output is torch.float64, and torch.bfloat16 is due"


def constant(x: Tensor) -> Tensor:
    return torch.ones_like(x)


def test_a_result_that_nothing_changes_is_vacuous():
    assert judged(constant, "op.purity").status == "vacuous"


def test_a_zone_sees_both_sides():
    for offset, index in ((-1, ZONE - 1), (6, ZONE + 6), (6 + ZONE - 1, 2 * ZONE + 5)):
        zone = Zone(torch.arange(6.0).view(2, 3), float("nan"))
        assert zone.broken() is None
        zone.tensor.add_(1)
        assert zone.broken() is None
        zone.base[index] = 0.0
        assert zone.broken() == offset


def test_a_witness_reproduces_by_its_script():
    made = judge_law("tests.mutants.op:RAW_SQUARE", "op.layout")
    assert made.witness is not None
    assert "judge_law('tests.mutants.op:RAW_SQUARE', 'op.layout'" in (made.witness.script or "")
    assert made.witness.case["layout"] == "transposed"
