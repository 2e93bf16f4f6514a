"""Checkpoints of several ranks: one format for all meshes, read by any number of ranks, exact where the mesh is the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from company import on_ranks
from saved_runs import saved, train

CHAIN: list[tuple[int, dict[str, Any] | None]] = [
    (4, {"shard": 4}),
    (2, {"shard": 2}),
    (3, {"shard": -1}),
    (2, {"replicate": 2}),
    (4, {"replicate": 2, "shard": 2}),
    (1, None),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(folder, {})
    return folder


def error(got: dict[str, Any], want: dict[str, Any]) -> float:
    """The largest difference of any tensor, relative to its largest element."""
    assert got.keys() == want.keys()
    worst = [np.abs(got[n] - want[n]).max() / max(np.abs(want[n]).max(), 1e-30) for n in want if want[n].size]
    return float(max(worst))


def test_a_run_that_moves_from_mesh_to_mesh_is_the_run_of_one_process(alone: Path, tmp_path: Path) -> None:
    """4 -> 2 -> 3 sharded, 2 replicated, 2 x 2 hybrid, one process: a step on each."""
    folder = tmp_path / "run"
    for step, (world, mesh) in enumerate(CHAIN, 1):
        changes = {"mesh": mesh}
        if world > 1:
            on_ranks(world, train, folder, changes, step > 1, step)
        else:
            train(folder, changes, step > 1, step)
        names = [p.name for p in (folder / f"checkpoints/step-{step:08d}").glob("*.safetensors")]
        whole = mesh is None or "shard" not in mesh
        assert sorted(names) == (
            ["tensors.safetensors"] if whole else [f"part-{r:05d}-of-{world:05d}.safetensors" for r in range(1, world + 1)]
        )
        assert error(saved(folder, step), saved(alone, step)) < 1e-10, f"step {step} on {mesh}"
