"""Laws of optimizers beyond their mutants: what is found by trying, what is asked, known limits, and restoring dtypes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from mapsto.check.targets import of_target
from mapsto.core.laws import Trial, Verdict, find_law, laws_for, verdict
from mapsto.core.registry import registry
from mapsto.testing import laws_of
from mapsto.torch.drivers.optimizer import MATRICES, settle
from mapsto.torch.saving import optimizer_state, restore_optimizer

OWN = [e.key for e in registry.entries("optimizer") if e.origin.startswith("mapsto ")]


def trial(target: Any, law: str = "optimizer.formula", **more: Any) -> Trial:
    subject = of_target(target, "optimizer")
    tags = subject.example.tags | frozenset(more.pop("tags", ()))
    expect = more.pop("expect", subject.example.expect)
    example = replace(subject.example, tags=tags, expect=expect, more={**subject.example.more, **more})
    return Trial(replace(subject, example=example), find_law(law))


def judged(target: Any, law: str, **more: Any) -> Verdict:
    return verdict(trial(target, law, **more))


@laws_of(*OWN, only=[law.name for law in laws_for("optimizer") if law.ranks == 1])
def test_every_registered_optimizer_keeps_them_or_says_which_not(law: Callable[[], None]) -> None:
    law()


@laws_of("optimizer/sgd", "optimizer/adamw", "optimizer/adafactor", only=["optimizer.sharded"])
def test_sharded_by_two_ranks(law: Callable[[], None]) -> None:
    law()


def test_what_an_optimizer_needs_is_found_by_trying() -> None:
    assert settle(trial(torch.optim.LBFGS)).tags == {"needs_closure", "across_parameters", "one_group"}
    assert settle(trial(torch.optim.SparseAdam)).tags == {"sparse_only", "sparse"}
    assert settle(trial(torch.optim.Muon)).more["shapes"] == MATRICES
    assert "found" not in settle(trial(torch.optim.AdamW)).more or "complex" in settle(trial(torch.optim.AdamW)).tags


class NeedsRate(torch.optim.SGD):
    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)


class NeedsClosure(torch.optim.SGD):
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            loss = closure()
        super().step()
        return loss


def test_a_rate_and_a_closure_are_found() -> None:
    assert settle(trial(NeedsRate)).args == {"lr": 0.01}
    assert "needs_closure" in settle(trial(NeedsClosure)).tags
    assert judged(NeedsClosure, "optimizer.untouched").status == "pass"


def test_an_instance_is_checked_by_its_class_and_defaults() -> None:
    instance = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5, momentum=0.9)
    made = trial(instance)
    assert made.subject.target is torch.optim.SGD
    assert made.example.args["momentum"] == 0.9
    assert verdict(made).status == "pass"


def unbuildable(params: Any, model: Any) -> Any:
    raise RuntimeError("a model is needed")


def test_what_cannot_be_built_is_asked_for() -> None:
    made = judged(unbuildable, "optimizer.resume")
    assert made.status == "unknown"
    assert "it could not be built and stepped" in made.reason
    assert "mapsto.example(unbuildable, args={'lr': 0.01}" in made.reason


def test_without_a_formula_its_law_is_not_applicable_and_the_weaker_one_is() -> None:
    made = judged(torch.optim.Muon, "optimizer.formula")
    assert made.status == "not applicable"
    assert "formula=lambda" in made.reason
    assert judged(torch.optim.Muon, "optimizer.descends").status == "pass"


def test_the_first_wrong_update_is_told_with_its_ratio() -> None:
    def half(w: torch.Tensor, g: torch.Tensor, t: int, memory: dict[str, Any], **options: Any) -> torch.Tensor:
        return w - 0.5 * options["lr"] * g

    made = judged(torch.optim.SGD, "optimizer.formula", formula=half)
    assert made.status == "fail"
    assert made.witness is not None
    assert made.witness.case["step"] == 1
    assert made.witness.cause == "the first update is 2 of what it should be"


def test_known_limits_are_expected_failures_and_strict() -> None:
    made = judged(torch.optim.NAdam, "optimizer.resume_low_precision")
    assert made.status == "expected failure"
    assert "pytorch#43706" in made.reason
    bare = judged(torch.optim.NAdam, "optimizer.resume_low_precision", expect={})
    assert bare.status == "fail"
    assert bare.witness is not None
    assert bare.witness.cause is not None
    assert "from float32 to bfloat16" in bare.witness.cause
    unexpected = judged(torch.optim.SGD, "optimizer.resume", expect={"optimizer.resume": "a reason that is no longer so"})
    assert unexpected.status == "fail"
    assert "take it out of `expect`" in unexpected.reason


def _trained(dtype: torch.dtype, steps: int) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    parameter = nn.Parameter(torch.linspace(1, 2, 5, dtype=torch.float64).to(dtype))
    optimizer = torch.optim.NAdam([parameter], lr=0.05)
    _train(parameter, optimizer, 0, steps)
    return parameter, optimizer


def _train(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    for t in range(start, stop):
        parameter.grad = torch.sin(parameter.detach().double() * (t + 1)).to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_restore_optimizer_keeps_what_load_state_dict_casts(dtype: torch.dtype) -> None:
    whole, _ = _trained(dtype, 8)
    half, optimizer = _trained(dtype, 4)
    ends, kept = {}, {}
    for way in ("load_state_dict", "restore_optimizer"):
        fresh = nn.Parameter(half.detach().clone())
        again = torch.optim.NAdam([fresh], lr=0.05)
        if way == "load_state_dict":
            again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        else:
            restore_optimizer(again, ["w"], [fresh], copy.deepcopy(optimizer_state(optimizer, ["w"])))
        kept[way] = again.state[fresh]["mu_product"].dtype
        _train(fresh, again, 4, 8)
        ends[way] = fresh.detach()
    assert kept == {"load_state_dict": dtype, "restore_optimizer": torch.float32}
    assert torch.equal(ends["restore_optimizer"], whole)
    if dtype is torch.float64:  # the control: the cast is not harmless
        assert not torch.equal(ends["load_state_dict"], whole)


def test_claims_are_needed_for_laws_of_claims() -> None:
    for law in ("optimizer.low_precision", "optimizer.sparse"):
        assert judged(torch.optim.RAdam, law).status == "not applicable"
    made = judged(torch.optim.SGD, "optimizer.low_precision", tags={"low_precision"})
    assert made.status == "fail"
    assert "never moved" in made.reason
