"""Ranks that hold the same must go on holding the same: compared before each checkpoint, and who diverged is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from company import on_ranks
from saved_runs import train
from strict_programs import run_spec

from mapsto import Run, use
from mapsto.core.errors import DivergenceError
from mapsto.core.per_rank import PerRank
from mapsto.engine.ranks import alike
from mapsto.torch.mesh.agreement import CHUNK, checksums


# -- checksums -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool, torch.int8, torch.complex128])
@pytest.mark.parametrize("size", [1, 2 * CHUNK + 3])
def test_every_bit_and_its_place_count(dtype: torch.dtype, size: int) -> None:
    value = torch.randint(0, 2, (size,)).to(dtype)
    value[0] = 1

    def total(tensor: torch.Tensor) -> int:
        return checksums({"x": tensor})[""]["x"]

    changed = value.clone()
    changed[-1] = 0 if value[-1] else 1
    assert total(value) == total(value.clone())
    assert total(value) != total(changed)
    if size > 1:
        value[1], swapped = 0, value.clone()
        swapped[0], swapped[1] = 0, 1
        assert total(value) != total(swapped)
    if dtype.is_floating_point:
        assert total(torch.zeros(3, dtype=dtype)) != total(-torch.zeros(3, dtype=dtype))
    assert total(torch.zeros(3)) != total(torch.zeros(4))


def test_trees_are_walked_and_what_is_a_ranks_own_is_left_out() -> None:
    tree = {"model": {"w": torch.ones(2)}, "list": [torch.ones(1), {"step": torch.tensor(3.0)}], "own": PerRank(torch.ones(1))}
    assert set(checksums({**tree, "step": 4, "name": "x"})[""]) == {"model/w", "list/0", "list/1/step"}
    assert checksums({"nothing": None}) == {}


class Told:
    """Ranks whose answers are known."""

    def __init__(self, every: list[dict[str, dict[str, int]]], rank: int = 0) -> None:
        self.every, self.rank, self.world, self.leader, self.asked = every, rank, len(every), True, 0

    def gather(self, value: Any) -> list[Any]:
        """What each would answer to the question that this rank answers with `value`."""
        self.asked += 1
        if self.asked == 1:
            answers = [Told([one], 0) for one in self.every]
            found = []
            for answer in answers:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(answer, "gather", lambda told: found.append(told) or [told])
                    alike(answer, answer.every[0])  # type: ignore[arg-type]
            return found
        part = next(p for p in self.every[self.rank] if self.every[self.rank][p] == value)
        return [one.get(part, {}) for one in self.every]


A, B = {"w": 1, "v": 2}, {"w": 1, "v": 3}


@pytest.mark.parametrize(
    ("every", "said"),
    [
        ([{"": A}, {"": A}, {"": B}], "rank 2 holds another v than the others"),
        (
            [{"": B}, {"": A}, {"": A}, {"": {"w": 9, "v": 9}}, {"": A}],
            "ranks 0, 3 hold another v and 1 more tensors than the others",
        ),
        ([{"": A}, {"": B}], "ranks 0, 1 no longer hold the same v"),
        ([{"shard 0": A}, {"shard 0": A}, {"shard 0": B}], "rank 2 holds another v than the others with shard 0"),
        ([{"": A}, {"": A}, {"": {"w": 1}}], "rank 2 holds another v than the others"),
    ],
)
def test_who_diverged_is_named(every: list[dict[str, dict[str, int]]], said: str) -> None:
    with pytest.raises(DivergenceError) as error:
        alike(Told(every), every[0])  # type: ignore[arg-type]
    assert str(error.value) == said


def test_ranks_with_other_parts_may_hold_other_things() -> None:
    alike(Told([{"shard 0": A}, {"shard 1": B}]), {"shard 0": A})  # type: ignore[arg-type]


# -- a run -----------------------------------------------------------------------------------------------------------------
def flipped(folder: str, mesh: dict[str, int], step: int, rank: int) -> str:
    """A run in which one bit of the optimizer's state flips on one rank; what each rank is told."""
    run = Run(run_spec(mesh), folder)
    inner, state = run.program.step_, run.program.state

    def step_(*args: Any) -> Any:
        metrics = inner(*args)
        if state.step == step and state.mesh.rank == rank:
            moment = state.optimizer.state[state.parameters[3]]["exp_avg"]
            getattr(moment, "_local_tensor", moment).view(torch.int32).view(-1)[0].bitwise_xor_(1)
        return metrics

    run.program.step_ = step_
    try:
        run.fit()
    except DivergenceError as error:
        return str(error)
    return f"{run.program.position} steps"


def test_a_rank_that_diverged_ends_the_run_before_its_state_is_saved(tmp_path: Path) -> None:
    found = on_ranks(3, flipped, str(tmp_path / "run"), {"replicate": 3}, 3, 1)
    wanted = "step 3: rank 1 holds another optimizer/state/"
    for said in found:
        assert said.startswith(wanted)
        assert "/exp_avg than the others; they did at step 2, which is saved" in said
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"shard": 2}, {"replicate": 2, "shard": 2}])
def test_parts_are_compared_with_their_copies_alone(tmp_path: Path, mesh: dict[str, int]) -> None:
    found = on_ranks(2 * mesh.get("replicate", 1), flipped, str(tmp_path / "run"), mesh, 3, 1)
    wanted = "ranks 1, 3 no longer hold the same optimizer/" if "replicate" in mesh else "6 steps"
    assert all(wanted in said for said in found), found
    assert "replicate" not in mesh or all("(shard 1)" in said for said in found)


class Counts:
    """Counts for each parameter, by its number."""

    def __init__(self) -> None:
        self.kept: dict[int, int] = {}

    def update(self, inner: Any) -> Any:
        def outer(state: Any, metrics: Any) -> Any:
            self.kept = {i: parameter.numel() for i, parameter in enumerate(state.parameters)}
            return inner(state, metrics)

        return outer

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        self.kept = tree["kept"]


@pytest.mark.parametrize(
    ("middleware", "said"),
    [
        ("saved_runs:Means", "ranks 0 and 1 hold other parts of the model, and something else as middleware/means/0"),
        ("test_agreement:Counts", "ranks hold other values as middleware.counts.kept"),
    ],
)
def test_what_stages_name_alike_and_is_not_alike_is_told_before_a_file_holds_one_of_it(
    tmp_path: Path, middleware: str, said: str
) -> None:
    """State that is numbered, where each stage of a pipeline has other parameters."""
    with pytest.raises(Exception, match=said):
        on_ranks(2, train, tmp_path / "run", {"mesh": {"pipeline": 2}, "middleware": [use(middleware)]}, False, 1)
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))
