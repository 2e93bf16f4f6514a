"""Checkpoints of several ranks: one format for all meshes, read by any number of ranks, exact where the mesh is the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from company import on_ranks
from safetensors.numpy import load_file, save_file
from saved_runs import failures, meanwhile, reads, same_mesh, saved, train
from tests.mesh.errors import error

from mapsto import use
from mapsto.core.errors import CheckpointError
from mapsto.engine.checkpoints.checkpoint import checkpoint_paths, step_of
from mapsto.engine.consolidate import consolidate
from mapsto.engine.folder import RunFolder
from mapsto.engine.ranks import Alone
from mapsto.engine.run import Run
from mapsto.torch import sharded_files

CHAIN: list[tuple[int, dict[str, Any] | None]] = [
    (4, {"shard": 4}),
    (2, {"shard": 2}),
    (3, {"shard": -1}),
    (2, {"replicate": 2}),
    (4, {"replicate": 2, "shard": 2}),
    (1, None),
]
PRODUCTS: list[tuple[int, dict[str, Any] | None]] = [
    (2, {"tensor": 2}),
    (2, {"shard": 2}),
    (4, {"shard": 2, "tensor": 2}),
    (2, {"pipeline": 2}),
    (2, {"replicate": 2}),
    (2, {"tensor": 2}),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(folder, {})
    return folder


def moved(chain: list[tuple[int, dict[str, Any] | None]], folder: Path, alone: Path, **more: Any) -> None:
    """A step on each mesh; after each of them the checkpoint is that of the run of one process."""
    for step, (world, mesh) in enumerate(chain, 1):
        changes = {"mesh": mesh, **more}
        if world > 1:
            on_ranks(world, train, folder, changes, step > 1, step)
        else:
            train(folder, changes, step > 1, step)
        names = sorted(p.name for p in (folder / f"checkpoints/step-{step:08d}").glob("*.safetensors"))
        parts = [f"part-{rank:05d}-of-{world:05d}.safetensors" for rank in range(1, world + 1)]
        assert names == (["tensors.safetensors"] if mesh is None or set(mesh) == {"replicate"} else parts)
        assert error(saved(folder, step), saved(alone, step)) < 1e-12, f"step {step} on {mesh}"


def test_a_run_that_moves_from_mesh_to_mesh_is_the_run_of_one_process(tmp_path: Path) -> None:
    """With state that a middleware made in its first step, and that it does not name after parameters."""
    middleware = [use("ema", decay=0.9), use("clip_norm", max_norm=0.5), use("saved_runs:Means")]
    train(tmp_path / "alone", {"middleware": middleware})
    moved(CHAIN, tmp_path / "run", tmp_path / "alone", middleware=middleware)


@pytest.mark.slow
def test_a_run_that_moves_over_products_and_stages_too(alone: Path, tmp_path: Path) -> None:
    moved(PRODUCTS, tmp_path / "run", alone)


def test_each_rank_reads_what_it_holds(alone: Path, tmp_path: Path) -> None:
    """Of whole tensors in one file."""
    for mesh in ({"shard": 2}, {"pipeline": 2}):
        folder = shutil.copytree(alone, tmp_path / next(iter(mesh)))
        shares = on_ranks(2, reads, folder, mesh)
        assert sum(shares) == pytest.approx(1, abs=0.1), f"{mesh}: {shares}"
        assert max(shares) < 0.75, f"{mesh}: {shares}"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Runs of two ranks."""
    folder = tmp_path_factory.mktemp("kept")
    return folder, on_ranks(2, same_mesh, folder)


@pytest.mark.bits
def test_on_the_same_mesh_a_resumed_run_is_bitwise_the_uninterrupted_one(kept: Any) -> None:
    """Sharded, with state of each rank's own; written while the run stands or goes on; replicated too."""
    folder, ranks = kept
    for rank, found in enumerate(ranks):
        hashes = {name: one["bits"] for name, one in found.items()}
        for name in ("resumed", "aside resumed"):
            assert hashes[name] == hashes["whole"], f"rank {rank}: {name}"
        assert hashes["replicated aside"] == hashes["replicated"]
        assert hashes["cut"] != hashes["whole"] != hashes["replicated"]
        assert not any(one["afresh"] == [True] for one in found.values())
    assert ranks[0]["whole"]["bits"] != ranks[1]["whole"]["bits"]  # each holds its own
    for name in ("whole", "cut", "aside", "replicated aside"):
        records = list(RunFolder(folder / name).records("checkpoint"))
        assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6], name
        there = sorted(p.name for p in (folder / name / "checkpoints").iterdir())
        assert there == [f"step-{step:08d}" for step in range(1, 7)]


def test_one_process_evaluates_predicts_and_consolidates_what_ranks_trained(kept: Any, tmp_path: Path) -> None:
    folder, ranks = kept
    run = Run.resume(folder / "whole")  # a mesh of two, state of each rank's own
    found = run.evaluate("valid")
    assert found["loss"] == pytest.approx(ranks[0]["whole"]["metrics"]["valid/loss"], rel=1e-12)
    assert sum(len(next(iter(batch.values()))) for batch in run.predict("valid")) == 11
    made = consolidate(folder / "whole", output=tmp_path / "w.safetensors")
    weights, whole = load_file(made.path), saved(folder / "whole", 6)
    assert len(weights) == made.tensors == len(run.program.model.state_dict())
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight, whole[f"model.{name}"])
    copy = shutil.copytree(folder / "whole", tmp_path / "harmed")
    lost = copy / "checkpoints/step-00000006/part-00001-of-00002.safetensors"
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"{lost} cannot be read"):
        consolidate(copy)


def test_state_of_each_rank_fits_no_other_number_of_ranks(kept: Any, tmp_path: Path) -> None:
    folder, _ = kept
    told_of = "program.middleware.feedback.kept {} each rank's own, 2 wrote it, and 1 go on"
    with pytest.raises(CheckpointError, match=told_of.format("is") + ": go on with 2 ranks"):
        Run.resume(shutil.copytree(folder / "whole", tmp_path / "whole"), "mesh=null", checkpoint=3).fit()
    run = Run.resume(shutil.copytree(folder / "fresh", tmp_path / "fresh"), "mesh=null")
    assert run.fit().reason == "finished"
    (start,) = [r for r in run.folder.records("start") if "resumed" in r["detail"]]
    assert told_of.format("starts afresh: it is") in start["detail"]["resumed"]["notes"]
    assert run.program.middleware["feedback"].began_afresh


def test_while_something_is_written_steps_go_on_and_nothing_is_lost(tmp_path: Path) -> None:
    ranks = on_ranks(2, meanwhile, tmp_path)
    first, second = ranks
    assert first["whole"]["reason"] == "finished"
    assert first["seen"], "no step was taken while a checkpoint was written"
    assert first["signal"] == second["signal"] == "interrupted"
    assert first["full"] == second["full"]
    assert "the checkpoint of step 8 could not be written: rank 1: no space left on the device" in first["full"]
    assert 8 < first["at"] == second["at"] < 16  # told at the next step, not at the next checkpoint
    assert [p.name for p in (tmp_path / "full/checkpoints").iterdir()] == []
    for name, steps in {"whole": [8, 16, 24], "signal": [1, 2, 3, 4, 5]}.items():
        records = list(RunFolder(tmp_path / name).records("checkpoint"))
        there = [step_of(p) for p in checkpoint_paths(tmp_path / name / "checkpoints")]
        assert [r["step"] for r in records] == there
        assert there == steps or (name == "signal" and there == steps[:4])  # the request is received with the step, or the next
        for step in there:
            saved(tmp_path / name, step)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("failures")
    return folder, on_ranks(2, failures, folder)


def test_what_one_rank_cannot_write_ends_all_of_them_and_leaves_the_earlier_ones(told: Any) -> None:
    folder, ranks = told
    assert ranks[0] == ranks[1]
    wanted = "CheckpointError: the checkpoint of step 4 could not be written: rank 1: no space left on the device ("
    assert ranks[0]["full"].startswith(wanted)
    assert ranks[0]["full"].endswith(f"the newest good one is {folder}/good/checkpoints/step-00000003")
    assert "the checkpoint of step 1 could not be written: rank 1: no space left" in ranks[0]["full aside"]
    assert "rank 1: a file would be larger than is allowed here (ulimit -f); there is no earlier one" in ranks[0]["limited"]
    assert ranks[0]["again"] == "stopped"
    for name in ("aside", "limited"):
        assert list((folder / name / "checkpoints").iterdir()) == []


def test_a_part_that_is_lost_or_changed_is_named_with_the_intact_ones(told: Any) -> None:
    folder, ranks = told
    for name, said in (("gone", "cannot be read: No such file"), ("changed", "is corrupt: its SHA-256")):
        text = ranks[0][name]
        assert f"{folder}/{name}/checkpoints/step-00000004/part-00002-of-00002.safetensors {said}" in text
        assert (
            f"Intact: step-00000003, step-00000002, step-00000001. Go on from one with: mapsto train --resume {folder}/{name}"
            in text
        )


def test_a_folder_that_a_rank_does_not_share_is_named(told: Any) -> None:
    _, ranks = told
    if "hidden" not in ranks[0]:
        pytest.skip("this needs the right to mount a file system of its own")
    assert "rank 1: " in ranks[0]["hidden"]
    assert "must lie on a file system that all ranks share" in ranks[0]["hidden"]


def test_a_tensor_that_no_file_holds_is_told_with_the_folder(tmp_path):
    save_file({"program.model.weight": np.ones((2, 3), np.float32)}, tmp_path / "part-00001-of-00001.safetensors")
    found = sharded_files.load_shards(tmp_path, ["program.model.weight"], None, Alone())
    assert found["program.model.weight"].shape == (2, 3)
    with pytest.raises(CheckpointError, match=f"{tmp_path}: the tensor files have no tensor program.model.bias"):
        sharded_files.load_shards(tmp_path, ["program.model.bias"], None, Alone())
