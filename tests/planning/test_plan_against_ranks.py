"""What is planned is what real ranks do: memory held and bytes communicated to the byte, the peak within a tenth.

The oracles are none of the planner's code: storages that ranks hold, the flight recorder of torch.distributed, and the
events of the CPU allocator in torch's profiler.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.mesh.company import on_ranks
from tests.planning.plan_cases import measured, planned

from mapsto.planning.traffic import totals

Case = tuple[str, str]


def agree(real: dict[str, Any], case: Case, rank: int) -> None:
    plan = planned(real["axes"], case[1], rank, steps=2)
    assert real["held"] == {name: plan.held[name] for name in real["held"]}, case
    counted = totals(plan.traffic)
    scattered = counted.pop("reduce-scatter", 0)
    if scattered:  # gloo does it by an all-reduce
        counted["all-reduce"] += scattered
    assert real["moved"] == counted, case
    copied = sum(t.bytes for t in plan.traffic if t.collective == "reduce-scatter")  # by gloo, until its own thread lets go
    assert plan.peak <= 1.1 * real["peak"], (case, plan.peak, real["peak"])
    assert plan.peak >= 0.9 * real["peak"] - copied, (case, plan.peak, real["peak"])
    alone = {**real["axes"], "replicate": 1, "shard": 1, "tensor": 1, "pipeline": 1}
    if alone == real["axes"]:
        return
    other = planned(alone, case[1], steps=2)  # a control: it differs
    assert (other.peak, totals(other.traffic)) != (plan.peak, totals(plan.traffic))


def compare(world: int, cases: list[Case]) -> None:
    found = on_ranks(world, measured, cases)
    for number, case in enumerate(cases):
        agree(found[0][number], case, 0)
        if "pipeline" in case[0]:  # every stage is planned for itself
            agree(found[-1][number], case, world // 2)
            continue
        held = [sum(rank[number]["held"].values()) for rank in found]
        assert max(held) == held[0], "rank 0, of whom the plan tells, holds the largest part"


def test_two_ranks() -> None:
    compare(2, [("replicate", "plain"), ("replicate", "averaged"), ("shard", "plain"), ("shard", "averaged")])


@pytest.mark.slow
def test_one_rank() -> None:
    compare(1, [("replicate", "plain"), ("replicate", "averaged"), ("replicate", "bf16")])


@pytest.mark.slow
def test_three_ranks_that_do_not_divide_the_parameters() -> None:
    compare(3, [("shard", "plain"), ("shard", "averaged"), ("replicate", "plain")])


@pytest.mark.slow
def test_four_ranks() -> None:
    compare(4, [("replicate", "plain"), ("shard", "bf16"), ("hybrid", "plain"), ("hybrid", "averaged"), ("hybrid", "bf16")])


@pytest.mark.slow
def test_tensor_and_pipeline() -> None:
    compare(2, [("tensor", "plain"), ("tensor", "bf16"), ("pipeline", "plain")])


@pytest.mark.slow
def test_combined_axes() -> None:
    compare(4, [("shard x tensor", "plain"), ("replicate x tensor", "plain"), ("pipeline x replicate", "plain")])
