"""N ranks are one rank: gradients, weights, metrics and evaluation of one process, for every axis of data parallelism."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from company import on_ranks
from mesh_programs import MODELS, all_steps, refused, steps
from tests.mesh.errors import error

from mapsto import middleware, use

CLIP = use("clip_norm", max_norm=0.05)
UNUSED = {"unused_parameters": True}
CASES: dict[str, dict[str, Any]] = {
    "records": {},
    "tokens": {"model": "words"},
    "nothing": {"batch": 2},  # more ranks than records
    "unused": {"model": "gated"},
    "clipped": {"middleware": [CLIP]},
    "accumulated": {"middleware": [CLIP, use("accumulate", steps=3)], "model": "words"},
    "sharp": {"middleware": [use("sam", rho=0.1), use("ema", decay=0.5)]},
    "adaptive": {"middleware": [use("sam", rho=0.5, adaptive=True), use("accumulate", steps=2)]},
    "guarded": {"middleware": [use("nonfinite"), use("clip_value", value=0.01), use("gradient_noise", eta=1e-3)]},
    "recomputed": {"middleware": [use("activation_checkpointing", modules=["blocks.*"])]},
    "adamw": {"optimizer": use("adamw", lr=1e-2), "middleware": [CLIP, use("ema", decay=0.9)], "model": "words"},
    "float32": {"dtype": "float32", "model": "words", "steps": 1},
}
MESHES = {
    2: [{"replicate": 2}, {"shard": 2}],
    3: [{"replicate": 3}, {"shard": -1}],
    4: [{"replicate": 4}, {"shard": 4}, {"replicate": 2, "shard": 2}],
}
WEIGHTS = {"adamw": 1e-9, "float32": 1e-5}


@cache
def alone(name: str) -> dict[str, Any]:
    return steps(CASES[name])


def said(mesh: dict[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items())


@cache
def company(world: int) -> list[dict[str, Any]]:
    cases = {
        f"{said(mesh)}: {name}": {**case, "mesh": {**mesh, **(UNUSED if name == "unused" else {})}}
        for mesh in MESHES[world]
        for name, case in CASES.items()
    }
    return on_ranks(world, all_steps, cases)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("world", "mesh"), [(w, m) for w, meshes in MESHES.items() for m in meshes], ids=str)
def test_several_ranks_do_what_one_does(world: int, mesh: dict[str, int], name: str) -> None:
    wanted = alone(name)
    exact = 1e-6 if name == "float32" else 1e-12
    for rank, found in enumerate(company(world)):
        got = found[f"{said(mesh)}: {name}"]
        for parameter, gradient in wanted["gradients"].items():
            where = f"rank {rank}, {parameter}"
            if gradient is None:
                assert got["gradients"][parameter] is None or not got["gradients"][parameter].any(), where
            else:
                assert error(got["gradients"][parameter], gradient) < exact, where
        for parameter, weight in wanted["weights"].items():
            assert error(got["weights"][parameter], weight) < WEIGHTS.get(name, 1e-12), f"rank {rank}, {parameter}"
        for kind in ("metrics", "evaluation"):
            assert got[kind].keys() == wanted[kind].keys()
            for metric, value in wanted[kind].items():
                ranked = 1e-3 if (name, metric) == ("float32", "auroc") else 1e-9  # two scores that rounding exchanges
                assert got[kind][metric] == pytest.approx(value, rel=max(WEIGHTS.get(name, 0), ranked)), (rank, metric)


def test_a_mean_of_means_would_be_seen() -> None:
    """The control: what averaging the ranks' own means gives is far from what one process has."""
    wanted = steps({"model": "words", "steps": 1})["gradients"]
    halves = on_ranks(2, all_steps, {"own": {"model": "words", "steps": 1}})  # no mesh is asked for: data parallel
    assert error(halves[0]["own"]["gradients"]["head.weight"], wanted["head.weight"]) < 1e-12
    from mesh_programs import made

    program, reader = made({"model": "words"})
    means = []
    for half in range(2):
        program.state.clear()
        program.grad(program.state, {n: _tensor(v) for n, v in reader.batch(0, half, 2).items()})
        means.append(program.model.head.weight.grad.numpy().copy())
    assert error((means[0] + means[1]) / 2, wanted["head.weight"]) > 1e-3


def _tensor(value: Any) -> Any:
    import torch

    return torch.from_numpy(value)


def test_micro_shards_decide_dropout_and_ranks_do_not() -> None:
    case = {"options": {"dropout": 0.4}, "micro_shards": 4}
    wanted = steps(case)
    for world in (2, 4):
        found = on_ranks(world, all_steps, {m: {**case, "mesh": {m: world}} for m in ("replicate", "shard")})
        for got in found:
            for mesh in got.values():
                for parameter, weight in wanted["weights"].items():
                    assert error(mesh["weights"][parameter], weight) < 1e-12, parameter
    other = steps({**case, "micro_shards": 2})
    assert error(other["weights"]["head.weight"], wanted["weights"]["head.weight"]) > 1e-6


@pytest.mark.parametrize("options", [{}, UNUSED], ids=["", "unused"])
@pytest.mark.parametrize("batch", [None, 1], ids=["", "a rank without records"])
def test_sparse_gradients_are_summed_over_replicas(options: dict[str, bool], batch: int | None) -> None:
    case = {
        "model": "sparse words",
        "optimizer": use("sgd", lr=0.1, fused=False),
        **({} if batch is None else {"batch": batch}),
    }
    wanted = steps(case)
    for found in on_ranks(2, all_steps, {"sparse": {**case, "mesh": {"replicate": 2, **options}}}):
        for name, gradient in wanted["gradients"].items():
            assert error(found["sparse"]["gradients"][name], gradient) < 1e-12, name
        for name, weight in wanted["weights"].items():
            assert error(found["sparse"]["weights"][name], weight) < 1e-12, name


class Shrinks:
    """A middleware that edits the gradient of each pass."""

    def grad(self, inner: Any) -> Any:
        return inner


class Normed(torch.nn.Sequential):
    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))


MODELS["normed"] = Normed
middleware("shrinks_each_pass", after="mesh")(Shrinks)
BAD = {
    "axes": ({"mesh": {"replicate": 3}}, "mesh: replicate 3 is 3 ranks, and 2 were started; start 3"),
    "division": ({"mesh": {"shard": 3, "replicate": -1}}, "2 ranks cannot be divided by 3 (shard 3)"),
    "two open": ({"mesh": {"shard": -1, "replicate": -1}}, "only one axis may be -1"),
    "size": ({"mesh": {"shard": 0}}, "mesh.shard: 0 is out of range: int of at least 1 | -1"),
    "name": ({"mesh": {"shards": 2}}, "did you mean 'shard'?"),
    "batch norm": ({"mesh": {"replicate": 2}, "model": "normed"}, "mesh: '1' take statistics over a batch"),
    "inside": ({"mesh": {"replicate": 2}, "middleware": [use(Shrinks)]}, "'shrinks_each_pass' wraps grad inside of the mesh"),
    "time": ({"mesh": {"replicate": 2, "timeout": 0}}, "mesh.timeout: 0"),
    "blocks": ({"mesh": {"shard": 2, "blocks": ["block.*"]}}, "mesh.blocks: no module matches 'block.*'"),
}


def all_refused(cases: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: refused(case) for name, case in cases.items()}


@cache
def refusals() -> list[dict[str, str]]:
    return on_ranks(2, all_refused, {name: case for name, (case, _) in BAD.items()})


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_on_every_rank_before_the_first_step(name: str) -> None:
    for found in refusals():
        assert BAD[name][1] in found[name]
