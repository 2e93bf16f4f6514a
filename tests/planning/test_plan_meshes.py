"""Plans of meshes: closed forms, ranking, what fits, and why another mesh does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mapsto import Spec, use
from mapsto.core.errors import DataError, PlanError, SpecError
from mapsto.core.parts import Part
from mapsto.planning.candidates import candidates, fitted, format_axes, parse_mesh
from mapsto.planning.plan import Planner, plan
from mapsto.planning.traffic import Traffic, totals
from mapsto.torch.planning.dry_run import dry_run, sized

WIDTH = 64
INJECTED = {"total_steps": 10, "steps_per_epoch": 5, "seed": 0}
EXAMPLE = {"input": np.zeros((4, WIDTH), np.float32), "target": np.zeros(4, np.int64)}
ONE = {"pipeline": 1, "replicate": 1, "shard": 1, "tensor": 1}


class Stack(nn.Module):
    """Two equal blocks without biases and a head: sizes that are counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.head = nn.Linear(WIDTH, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x).relu()
        return self.head(x)


BLOCK, HEAD = 4 * WIDTH * WIDTH, 4 * WIDTH * 8
ALL = 2 * BLOCK + HEAD
METRICS = 24
"""Bytes of the sums that ranks share in a step: loss, weight and the request to stop, in float64."""


def spec(model: Any = Stack, **more: Any) -> Spec:
    given = {"task": "classification", "optimizer": use("sgd", lr=0.1, momentum=0.9), "device": "cpu", **more}
    return Spec(model=use(model), data={"train": {"source": use("arrays", **EXAMPLE), "batch_size": 4}}, **given)


def planned(mesh: str, records: int = 64, model: Any = Stack, ranks: int | None = None, **more: Any) -> Any:
    limits = {k: more.pop(k) for k in ("memory", "reserve", "bandwidth") if k in more}
    return plan(spec(model, **more), EXAMPLE, records, INJECTED, meshes=[mesh], ranks=ranks, **limits)[0]


# -- closed forms ------------------------------------------------------------------------------------------------------
def test_one_process_moves_nothing() -> None:
    found = planned("replicate=1")
    held = dict(found.measured.held)
    assert held.pop("buffers") < 64  # a counter or two
    assert held == {"parameters": ALL, "gradients": ALL, "optimizer": ALL}
    assert totals(found.traffic) == {}
    assert found.sent == 0


def test_replicas_reduce_every_gradient_once() -> None:
    found = planned("replicate=16")
    assert found.measured.held["parameters"] == found.measured.held["gradients"] == ALL
    assert totals(found.traffic) == {"all-reduce": ALL + METRICS}
    assert found.sent == pytest.approx(2 * 15 / 16 * (ALL + METRICS))


def test_shards_gather_parameters_twice_and_scatter_gradients_once() -> None:
    found = planned("shard=8")
    held = found.measured.held
    assert held["parameters"] == held["gradients"] == held["optimizer"] == ALL / 8
    gathered = 2 * 2 * BLOCK + HEAD  # the root stays gathered after the forward pass
    assert totals(found.traffic) == {"all-gather": gathered, "reduce-scatter": ALL, "all-reduce": METRICS}
    assert found.sent == pytest.approx(7 / 8 * (gathered + ALL + 2 * METRICS))


def test_hybrid_shards_reduce_their_part_over_replicas() -> None:
    found = planned("replicate=4,shard=4")
    assert found.measured.held["parameters"] == ALL / 4
    assert totals(found.traffic)["all-reduce"] == ALL / 4 + METRICS
    axes = {(t.collective, t.axis, t.ranks) for t in found.traffic}
    assert {("all-gather", "shard", 4), ("reduce-scatter", "shard", 4), ("all-reduce", "replicate", 4)} <= axes


def test_accumulation_gathers_shards_for_each_pass_and_reduces_replicas_once() -> None:
    twice = [use("accumulate", steps=2)]
    assert totals(planned("replicate=2", middleware=twice).traffic) == {"all-reduce": ALL + METRICS}
    assert totals(planned("shard=2", middleware=twice).traffic)["all-gather"] == 2 * (2 * 2 * BLOCK + HEAD)


def test_micro_shards_are_passes_of_a_rank() -> None:
    found = planned("replicate=2", records=60, micro_shards=8).measured
    assert (found.passes, found.records) == (4, math.ceil(60 / 8))


def test_copies_of_a_middleware_are_held() -> None:
    found = planned("replicate=1", middleware=["ema"]).measured
    assert ALL <= found.held["buffers"] == found.at_peak["buffers"] < ALL + 64


def test_what_is_sent_on_a_ring() -> None:
    sent = {name: Traffic(name, 1200, 4).sent for name in ("all-reduce", "all-gather", "reduce-scatter", "send", "receive")}
    assert sent == {"all-reduce": 1800, "all-gather": 900, "reduce-scatter": 900, "send": 1200, "receive": 0}


# -- fitting -----------------------------------------------------------------------------------------------------------
def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    found = planned("replicate=2", memory=2 * 10**6, reserve=0.0)
    with dry_run(spec(), found.axes, 0, EXAMPLE, INJECTED) as run:
        few = 200  # bytes of metrics of the steps before
        assert run.step(found.largest).peak <= 2 * 10**6 + few
        assert run.step(found.largest + 1).peak > 2 * 10**6 - few


def test_a_reserve_is_kept_free() -> None:
    whole, less = (planned("replicate=2", memory=10**6, reserve=r) for r in (0.0, 0.25))
    assert less.largest < whole.largest
    assert planned("replicate=2", memory=whole.measured.peak, reserve=0.0).fits
    assert not planned("replicate=2", memory=whole.measured.peak, reserve=0.1).fits


def test_what_does_not_fit_says_by_how_much_and_what_would() -> None:
    found = planned("replicate=2", records=4096, memory=10**6, reserve=0.0)
    assert not found.fits
    assert "a rank: " in found.reason
    assert f"micro-batches of {found.largest} of 2048 would fit" in found.reason
    assert 0 < found.largest < 2048


def test_meshes_are_ranked_and_the_others_have_their_reason() -> None:
    limits: dict[str, Any] = {"memory": int(2.6 * ALL), "reserve": 0.0, "bandwidth": 10**9}
    found = plan(spec(), EXAMPLE, 3, INJECTED, ranks=4, per_node=2, **limits)
    assert len(found) == len(candidates(4, 2))
    reasons = {format_axes(one.axes): one.reason for one in found if not one.fits}
    assert "leaves 1 of 4 data ranks without one: data.train.batch_size=4 or more" in reasons["replicate=4"]
    assert "nothing of Stack can be cut over 2 ranks" in reasons["replicate=2,tensor=2"]
    assert all(reasons.values())

    found = plan(spec(), EXAMPLE, 3, INJECTED, meshes=["replicate=2", "pipeline=3", "shard=3"], **limits)
    assert "parameters, gradients and optimizer alone are 104 KB a rank: 13.9 KB too many" in found[-1].reason
    fitting = [one for one in found if one.fits]
    assert fitting == found[:2]
    assert [one.sent for one in fitting] == sorted(one.sent for one in fitting)
    assert all(one.seconds == one.sent / 10**9 for one in fitting)


def test_a_layer_that_depends_on_the_batch_is_a_reason() -> None:
    class Normed(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8))

    found = planned("replicate=2", model=Normed)
    assert not found.fits
    assert "'1' take statistics over a batch" in found.reason


# -- what cannot be planned --------------------------------------------------------------------------------------------
class Reads(Stack):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Picks(Stack):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[x[:, 0] > 0]


@torch.library.custom_op("mapsto_tests_planning::closed", mutates_args=())
def closed(x: Tensor) -> Tensor:
    return x.clone()


class Closed(Stack):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(closed(x))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            Reads,
            r"aten\._local_scalar_dense.* reads a value, and a plan is made without data \(.*test_plan_meshes\.py:\d+: return",
        ),
        (Picks, r"aten\.(nonzero|index).* has an output whose shape depends on the data \(.*test_plan_meshes\.py:\d+"),
        (Closed, r"closed.* give it one with torch\.library\.register_fake.*test_plan_meshes\.py"),
    ],
)
def test_a_model_that_needs_data_is_told_the_operator_and_the_line(model: Any, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        planned("replicate=2", model=model)


def test_a_broken_spec_is_not_blamed_on_meshes() -> None:
    with pytest.raises(DataError, match="does not accept argument 0"):
        planned("replicate=2", model=Narrow)


class Narrow(Stack):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0] = nn.Linear(3, WIDTH)


def test_a_plan_is_not_made_by_a_rank_nor_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanError, match="'servers' is not planned; a plan is for meshes of ranks"):
        Planner(spec(mesh=Part("servers", {"servers": 1})), EXAMPLE, 4, INJECTED).rank([ONE])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(PlanError, match="this one is a rank of a group"):
        planned("replicate=2")


@pytest.mark.parametrize(
    ("text", "ranks", "told"),
    [
        ("replicat=2", None, r"there is no axis 'replicat'; .*did you mean 'replicate'"),
        ("replicate=two", None, "'replicate=two' does not say a number of ranks; write replicate=8"),
        ("replicate", None, "'replicate' does not say a number of ranks"),
        ("replicate=0", None, "mesh.replicate: 0 is not allowed"),
        ("replicate=-1", None, "say how many there are: --ranks 64"),
        ("replicate=-1,shard=3", 8, r"8 ranks cannot be divided by .*shard 3"),
        ("shard=4", 8, "shard 4 is 4 ranks, and 8 were started"),
        ("shard=-1,replicate=-1", 8, "only one axis may be -1"),
    ],
)
def test_a_mesh_that_is_none_says_what_is_allowed(text: str, ranks: int | None, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        parse_mesh(text, ranks)


def test_axes_are_read_and_said_alike() -> None:
    found = parse_mesh("shard=4, tensor=2,replicate=-1", 64)
    assert found == {"pipeline": 1, "replicate": 8, "shard": 4, "tensor": 2}
    assert parse_mesh(format_axes(found), 64) == found
    assert fitted({}, None) == ONE


@pytest.mark.parametrize("ranks", [1, 2, 6, 8, 64, 96, 1024])
def test_candidates_are_meshes_of_these_ranks(ranks: int) -> None:
    found = candidates(ranks)
    assert all(math.prod(axes.values()) == ranks and 8 % axes["tensor"] == 0 for axes in found)
    assert len({tuple(axes.values()) for axes in found}) == len(found) <= 80
    assert {**ONE, "replicate": ranks} in found
    assert {**ONE, "shard": ranks} in found


def test_batches_without_data() -> None:
    example = {"x": np.zeros((3, 5), np.float16), "words": ["a", "b", "c"], "table": np.zeros((7, 2)), "scale": 2.0}
    found = sized(example, 5)
    assert (found["x"].shape, found["x"].dtype) == ((5, 5), torch.float16)
    assert found["words"] == ["a", "b", "c", "a", "b"]
    assert found["table"].shape == (7, 2)  # not as long as the records are many
    assert found["scale"] == 2.0
    with pytest.raises(DataError, match="has no record"):
        sized({"x": np.zeros((0, 5))}, 2)


def test_each_mesh_is_told_as_soon_as_it_is_known_and_what_does_not_go_together_is_not_stepped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    stepped: list[tuple[str, int]] = []
    step = Planner._stepped

    def watched(planner: Planner, axes: Any) -> Any:
        stepped.append((format_axes(axes), len(told)))
        return step(planner, axes)

    monkeypatch.setattr(Planner, "_stepped", watched)
    plan(spec(), EXAMPLE, 64, INJECTED, meshes=["pipeline=2,shard=2", "replicate=2", "shard=2"], progress=told.append)
    assert stepped == [("replicate=2", 2), ("shard=2", 3)]
    assert told[1].startswith("1 of 3: pipeline=2,shard=2: mesh.pipeline and shard do not go together")
    assert told[2].startswith("2 of 3: replicate=2: peak ")
