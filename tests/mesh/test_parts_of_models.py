"""What a task does with a model is exact on ranks: its parts called one by one, beside it, in its own methods."""

from __future__ import annotations

from functools import cache
from typing import Any

import part_programs
import pytest
from company import RankFailed, on_ranks
from mesh_programs import all_steps, refused, steps
from tests.mesh.errors import error

from mapsto import use

UNUSED = {"unused_parameters": True}
CASES: dict[str, dict[str, Any]] = {
    **{name: {"task": task} for name, task in part_programs.TASKS.items()},
    "method": {"task": part_programs.method, "model": "own"},
    "some": {"task": part_programs.some, "unused": True},
    "accumulated": {"task": part_programs.parts, "middleware": [use("accumulate", steps=3), use("clip_norm", max_norm=0.05)]},
    "micro-shards": {"task": part_programs.part_first, "micro_shards": 4},
}
STRICT = ("parts", "beside", "some", "method")
MESHES = {"replicate": {"replicate": 2}, "shard": {"shard": 2}, "tensor": {"tensor": 2}}


def placed(name: str, mesh: str, **more: Any) -> dict[str, Any]:
    case = {**CASES[name], **more}
    return {**case, "mesh": {**MESHES[mesh], **(UNUSED if case.pop("unused", False) else {})}}


@cache
def company() -> dict[str, Any]:
    cases = {f"{mesh} {name}": placed(name, mesh) for mesh in MESHES for name in CASES}
    strict = {"strict": True, "micro_shards": 4}
    cases |= {f"strict {mesh} {name}": placed(name, mesh, **strict) for mesh in ("replicate", "shard") for name in STRICT}
    return on_ranks(2, all_steps, cases)[0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mesh", MESHES)
def test_a_task_may_call_parts_of_the_model_on_ranks(mesh: str, name: str) -> None:
    wanted, got = steps(CASES[name]), company()[f"{mesh} {name}"]
    for parameter, gradient in wanted["gradients"].items():
        found = got["gradients"][parameter]
        if gradient is None:
            assert found is None or not found.any()
        else:
            assert error(found, gradient) < 1e-12, parameter
    for parameter, weight in wanted["weights"].items():
        assert error(got["weights"][parameter], weight) < 1e-12, parameter
    assert got["evaluation"] == pytest.approx(wanted["evaluation"], rel=1e-12)


@pytest.mark.parametrize("name", STRICT)
@pytest.mark.parametrize("mesh", ["replicate", "shard"])
def test_in_strict_mode_it_is_bitwise_one_rank(mesh: str, name: str) -> None:
    wanted = steps({**CASES[name], "strict": True, "micro_shards": 4})["weights"]
    got = company()[f"strict {mesh} {name}"]["weights"]
    assert all((got[n] == weight).all() for n, weight in wanted.items())


def test_a_part_of_a_block_that_is_gathered_by_itself_is_refused() -> None:
    said = on_ranks(2, refused, {"task": part_programs.within, "mesh": {"shard": 2}})[0]
    assert "mesh.shard: the task uses a part of a block" in said
    assert "mesh.blocks" in said


def test_a_gradient_within_the_pass_is_exact_on_replicas_and_refused_of_shards() -> None:
    wanted, found = steps({"task": part_programs.penalised}), on_ranks(2, all_or_refused, part_programs.penalised)[0]
    for parameter, weight in wanted["weights"].items():
        assert error(found["replicate"]["weights"][parameter], weight) < 1e-12, parameter
    assert "mesh.shard: the task differentiates within its pass" in found["shard"]


def all_or_refused(task: Any) -> dict[str, Any]:
    replicated = steps({"task": task, "mesh": {"replicate": 2}, "optimizer": use("sgd", lr=0.1)})
    return {"replicate": replicated, "shard": refused({"task": task, "mesh": {"shard": 2}})}


def test_a_pipeline_refuses_a_task_that_calls_parts() -> None:
    with pytest.raises(RankFailed, match="the task uses 'blocks' of the model"):
        on_ranks(2, steps, {"task": part_programs.parts, "mesh": {"pipeline": 2}})
