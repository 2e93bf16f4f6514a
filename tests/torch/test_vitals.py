"""How far parameters move, against sums by hand; and which have no gradient or stay what they were, bit by bit."""

from __future__ import annotations

import pytest
import torch
from programs import Net, batch, plain, program, run
from torch import nn

from mapsto import use
from mapsto.engine.vitals import merged, resident, samples
from mapsto.torch.vitals import HealthProbe


def length(tensor):
    return tensor.detach().double().square().sum().sqrt()


def test_ratios_and_norms_are_those_of_sums_by_hand():
    made = program(use("health", every=2), model=plain, optimizer=use("sgd", lr=0.1, momentum=0.9))
    bare = program(model=plain, optimizer=use("sgd", lr=0.1, momentum=0.9))
    for step in range(4):
        data = batch(step, dtype=torch.float64)
        before = {n: p.detach().clone() for n, p in bare.model.named_parameters()}
        found, _ = made.step(data), bare.step(data)
        if step % 2:
            assert not [n for n in found if "/" in n]
            continue
        for name, p in bare.model.named_parameters():
            longer = max(length(before[name]), length(p))
            assert found[f"update_ratio/{name}"] == pytest.approx(float(length(p - before[name]) / longer), rel=1e-12)
            assert found[f"gradient_norm/{name}"] == pytest.approx(float(length(p.grad)), rel=1e-12)


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.unused = nn.Embedding(5, 3, sparse=True), nn.Linear(2, 2)

    def forward(self, x):
        return self.table(x).sum(1)


def test_a_sparse_gradient_is_measured_and_a_missing_one_is_no_metric():
    made = program(use("health", every=1), model=Sparse, optimizer=use("sgd", lr=0.1, fused=False))
    found = made.step({"input": torch.tensor([[0, 1], [1, 1]]), "target": torch.tensor([0, 2])})
    assert found["gradient_norm/table.weight"] > 0
    assert found["update_ratio/table.weight"] > 0
    assert "gradient_norm/unused.weight" not in found
    assert found["update_ratio/unused.weight"] == 0


def test_parameters_without_gradient_and_weights_that_stay_are_named():
    made = program(model=Sparse, optimizer=use("sgd", lr=0.1, fused=False))
    vitals = HealthProbe(made.state)
    data = {"input": torch.tensor([[0, 1], [1, 1]]), "target": torch.tensor([0, 2])}
    made.step(data)
    assert vitals(False) == {}
    told = vitals(True)["parameters"]
    assert told["none"] == told["lifeless"] == ["unused.weight", "unused.bias"]
    assert (told["count"], told["unchanged"]) == (3, [])
    made.step(data)
    assert vitals(True)["parameters"]["unchanged"] == ["unused.weight", "unused.bias"]
    assert vitals(True)["parameters"]["unchanged"] == ["table.weight", "unused.weight", "unused.bias"]  # no step between


def test_one_element_by_one_bit_counts_as_changed_and_a_tiny_gradient_as_there():
    made = program(model=Net)
    vitals, weight = HealthProbe(made.state), made.model.head.weight
    for p in made.state.parameters:
        p.grad = torch.zeros_like(p)
    made.model.embed.bias.grad[0] = 1e-30  # whose square is 0 in float32
    told = vitals(True)["parameters"]
    assert set(told["lifeless"]) == set(made.state.names) - {"embed.bias"}
    assert told["none"] == []
    with torch.no_grad():
        weight[1, 2] = torch.nextafter(weight[1, 2], torch.tensor(9.0))
    assert set(vitals(True)["parameters"]["unchanged"]) == set(made.state.names) - {"head.weight"}
    with torch.no_grad():  # what one element's bits lose another's gain, which the length tells apart
        weight[0, 0], weight[0, 1] = 1.5, 1.75
        vitals(True)
        weight[0, 0], weight[0, 1] = 1.25, 2.0
    assert "head.weight" not in vitals(True)["parameters"]["unchanged"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_any_dtype_is_looked_at(dtype):
    made = program(model=Net)
    made.state.parameters, made.state.names = [nn.Parameter(torch.ones(3, dtype=dtype))], ["p"]
    made.state.parameters[0].grad = torch.ones(3, dtype=dtype)
    vitals = HealthProbe(made.state)
    assert vitals(True)["parameters"]["lifeless"] == []
    assert vitals(True)["parameters"]["unchanged"] == ["p"]


def test_the_run_is_bitwise_the_same_whether_it_is_looked_at_or_not():
    made, bare = program(), program()
    vitals = HealthProbe(made.state)
    for step in range(3):
        made.step(batch(step)), bare.step(batch(step))
        vitals(True)
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), bare.model.parameters(), strict=True))
    other = program()
    run(other, 2)
    assert not all(torch.equal(a, b) for a, b in zip(made.model.parameters(), other.model.parameters(), strict=True))


# -- of all ranks ------------------------------------------------------------------------------------------------------
def told(digest="a", count=3, none=(), lifeless=(), unchanged=()):
    return {"digest": digest, "count": count, "none": list(none), "lifeless": [*none, *lifeless], "unchanged": list(unchanged)}


def test_of_ranks_that_hold_parts_all_must_say_it_and_stages_add_theirs():
    parts = [told(none=["x"], lifeless=["y"], unchanged=["y", "z"]), told(lifeless=["x", "y"], unchanged=["z"])]
    assert merged(parts) == {"parameters": 3, "zero_gradient": ["x", "y"], "unchanged": ["z"]}
    stages = [told(none=["x"]), told("b", 2, unchanged=["w"])]
    assert merged(stages) == {"parameters": 5, "no_gradient": ["x"], "unchanged": ["w"]}
    assert merged([told(), told()]) == {"parameters": 3}
    assert merged([]) == {}


def test_parameters_are_looked_at_ever_more_rarely():
    assert [n for n in range(1, 100) if samples(n)] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96]


def test_the_memory_of_this_process_is_told():
    before = resident()
    held = torch.ones(16_000_000)
    assert before is not None
    assert 50e6 < resident() - before < 500e6
    del held
