from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import shutil
import subprocess

import numpy as np
import numpy_wing
import pytest

from mapsto.core.errors import CheckpointError
from mapsto.engine.checkpoints import writing as module
from mapsto.engine.checkpoints.checkpoint import Checkpoints, step_of
from mapsto.engine.checkpoints.manifest import MANIFEST, digest, measure, verify, why
from mapsto.engine.checkpoints.writing import STATE, TENSORS

NOBODY = {"metric": "valid/loss", "mode": "min", "entries": []}
ABOUT = {"best": NOBODY, "versions": {"mapsto": "0.1"}, "metrics": {}}


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", numpy_wing)


def tree(step: int, size: int = 1000):
    return {"program": {"w": np.full(size, step, np.float32), "n": step}, "position": step}


def save(checkpoints, *steps: int, **about):
    return [checkpoints.save(step, tree(step), {**ABOUT, **about}) for step in steps]


def test_what_is_loaded_is_what_was_saved(checkpoints):
    (path,) = save(checkpoints, 7, epoch=0.5)
    found = checkpoints.load(path)
    assert path.name == "step-00000007"
    assert found.tree["position"] == 7
    np.testing.assert_array_equal(found.tree["program"]["w"], np.full(1000, 7, np.float32))
    assert found.manifest["epoch"] == 0.5
    assert found.manifest["holds"] == ["position", "program"]
    assert set(found.manifest["files"]) == {STATE, TENSORS}
    assert sorted(p.name for p in path.iterdir()) == sorted([MANIFEST, STATE, TENSORS])
    assert [p.name for p in checkpoints.folder.iterdir()] == [path.name]


def test_every_file_is_forced_out_before_the_manifest_and_the_manifest_before_the_name(checkpoints, monkeypatch):
    done = []
    wrap = lambda name, call: lambda *a: (done.append((name, os.path.basename(str(a[0])))), call(*a))[1]  # noqa: E731
    monkeypatch.setattr(module, "sync", wrap("sync", module.sync))
    monkeypatch.setattr(module, "write", wrap("write", module.write))
    monkeypatch.setattr(module.os, "rename", wrap("rename", os.rename))
    save(checkpoints, 1)
    temporary = f".step-00000001.{os.getpid()}.tmp"
    assert done == [
        ("sync", TENSORS),
        ("write", STATE),
        ("write", MANIFEST),
        ("sync", temporary),
        ("rename", temporary),
        ("sync", "checkpoints"),
    ]


def test_a_checkpoint_is_never_overwritten(checkpoints):
    save(checkpoints, 1)
    with pytest.raises(CheckpointError, match="exists already"):
        save(checkpoints, 1)
    assert checkpoints.load(checkpoints.path(1)).tree["position"] == 1


# -- corruption --------------------------------------------------------------------------------------------------------
def flip(file, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", [MANIFEST, STATE, TENSORS])
@pytest.mark.parametrize("where", range(0, 1000, 37))
def test_one_flipped_bit_anywhere_is_found(checkpoints, name, where):
    path = save(checkpoints, 1, 2)[1]
    verify(path)
    size = (path / name).stat().st_size
    flip(path / name, where * size // 1000)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as error:
        checkpoints.load(path)
    assert f"mapsto train --resume {checkpoints.path(1)}" in str(error.value)


@pytest.mark.parametrize(("was", "said"), [("w", "has no tensor|no tensor"), ("n", None)])
def test_a_state_that_refers_to_another_tensor_is_told_with_its_checkpoint(checkpoints, was, said):
    first, path = save(checkpoints, 1, 2)
    text = (path / STATE).read_text()
    assert "program.w" in text
    (path / STATE).write_text(text.replace("program.w", f"program.{was}.x"))
    manifest = json.loads((path / MANIFEST).read_text())
    manifest.pop("digest")
    manifest["files"][STATE] = measure(path / STATE)
    (path / MANIFEST).write_text(json.dumps({**manifest, "digest": digest(manifest)}))
    with pytest.raises(CheckpointError, match=said) as error:
        checkpoints.load(path)
    assert str(path) in str(error.value).splitlines()[0]
    assert f"mapsto train --resume {first}" in str(error.value)


@pytest.mark.parametrize("name", [MANIFEST, STATE, TENSORS])
def test_every_truncation_is_found(checkpoints, name):
    (path,) = save(checkpoints, 1)
    whole = (path / name).read_bytes()
    for size in range(0, len(whole), max(len(whole) // 50, 1)):
        (path / name).write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.") + " is corrupt.*\nThere is no other intact"):
            checkpoints.load(path)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        checkpoints.load(path)
    (path / name).write_bytes(whole)
    checkpoints.load(path)


def test_a_corrupt_one_is_named_with_the_intact_ones_and_not_with_corrupt_ones(checkpoints):
    paths = save(checkpoints, 1, 2, 3, 4)
    flip(paths[3] / TENSORS, 500)
    flip(paths[1] / STATE, 20)
    with pytest.raises(CheckpointError) as error:
        checkpoints.load(paths[3])
    text = str(error.value)
    assert f"{paths[3] / TENSORS} is corrupt" in text
    assert "Intact: step-00000003, step-00000001." in text
    assert text.endswith(f"mapsto train --resume {paths[2]}")


def rewrite(path, **changes) -> None:
    """A manifest that is whole and says something else."""
    manifest = json.loads((path / MANIFEST).read_bytes())
    manifest.pop("digest")
    manifest.update(changes)
    (path / MANIFEST).write_text(json.dumps({**manifest, "digest": digest(manifest)}))


def test_another_format_version_is_an_error(checkpoints):
    (path,) = save(checkpoints, 1)
    rewrite(path, format=9)
    wanted = r"has format 9, and this version reads 1 and 2: use the mapsto that wrote it \(0.1\)"
    with pytest.raises(CheckpointError, match=wanted):
        checkpoints.load(path)


def test_intact_bytes_that_cannot_be_read_are_an_error(checkpoints):
    (path,) = save(checkpoints, 1)
    (path / TENSORS).write_bytes(b"not safetensors")
    rewrite(path, files={n: measure(path / n) for n in (STATE, TENSORS)})
    with pytest.raises(CheckpointError, match="is intact but cannot be read"):
        checkpoints.load(path)


# -- finding and pruning -----------------------------------------------------------------------------------------------
def test_finding(checkpoints, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint 'last' in .*none \(a run that ended before its first"):
        checkpoints.find("last")
    paths = save(checkpoints, 1, 20)
    assert checkpoints.find("last") == paths[1]
    for which in (1, "1", "step-00000001", paths[0], str(paths[0])):
        assert checkpoints.find(which) == paths[0]
    with pytest.raises(CheckpointError, match="no checkpoint '3' in .*; there are: step-00000001, step-00000020"):
        checkpoints.find(3)
    with pytest.raises(CheckpointError, match="keeps no best"):
        checkpoints.find("best")
    entries = [{"step": 5, "value": 0.0}, {"step": 20, "value": 1.0}]
    save(checkpoints, 30, best={**NOBODY, "entries": entries})
    assert checkpoints.find("best") == paths[1]  # 5 was never here
    (checkpoints.folder / "step-1").mkdir()
    assert len(checkpoints.paths()) == 3
    with pytest.raises(CheckpointError, match="not the name of a checkpoint"):
        step_of(tmp_path / "step-x")


def test_steps_beyond_eight_digits_stay_in_order(checkpoints):
    paths = save(checkpoints, 99_999_999, 100_000_000)
    assert checkpoints.paths() == paths


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (None, [], [1, 2, 3, 4, 5]),
        (9, [], [1, 2, 3, 4, 5]),
        (2, [], [4, 5]),
        (2, [1, 3], [1, 3, 4, 5]),
        (1, [5], [5]),
        (0, [], [5]),
    ],
)
def test_pruning_keeps_the_newest_and_the_best(checkpoints, keep, best, left):
    save(checkpoints, 1, 2, 3, 4, 5)
    checkpoints.prune(keep, best)
    assert [step_of(p) for p in checkpoints.paths()] == left
    assert len(list(checkpoints.folder.iterdir())) == len(left)


def test_of_a_checkpoint_that_lies_elsewhere_the_link_alone_is_removed(checkpoints, tmp_path):
    first, second = save(checkpoints, 1, 2)
    elsewhere = shutil.move(first, tmp_path / "elsewhere")
    first.symlink_to(elsewhere, target_is_directory=True)
    files = sorted(elsewhere.rglob("*"))
    assert checkpoints.prune(1, []) == [first]
    assert list(checkpoints.folder.iterdir()) == [second]
    assert sorted(elsewhere.rglob("*")) == files != []


def test_left_over_temporaries_are_removed_and_nothing_else(checkpoints):
    (path,) = save(checkpoints, 1)
    for name in (".step-00000002.99.tmp", ".step-00000001.77.tmp"):
        shutil.copytree(path, checkpoints.folder / name)
    assert checkpoints.paths() == [path]
    assert sorted(checkpoints.clean()) == [".step-00000001.77.tmp", ".step-00000002.99.tmp"]
    assert list(checkpoints.folder.iterdir()) == [path]


def test_setting_aside(checkpoints):
    save(checkpoints, 1, 2, 3)
    assert checkpoints.set_aside(1) == ["was-step-00000002", "was-step-00000003"]
    assert [step_of(p) for p in checkpoints.paths()] == [1]
    save(checkpoints, 2)
    assert checkpoints.set_aside(1) == ["was-step-00000002"]
    assert checkpoints.set_aside(1) == []


# -- failing while saving ----------------------------------------------------------------------------------------------
def assert_untouched(checkpoints, paths):
    assert sorted(checkpoints.folder.iterdir()) == sorted(paths)
    for path in paths:
        checkpoints.load(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("at", ["tensors", "sync", "write", "rename"])
def test_an_error_of_the_system_at_any_point_leaves_the_earlier_ones(checkpoints, monkeypatch, number, at):
    paths = save(checkpoints, 1)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    if at == "tensors":
        monkeypatch.setattr(numpy_wing, "save_tensors", fail)
    else:
        monkeypatch.setattr(module.os if at == "rename" else module, at, fail)
    with pytest.raises(CheckpointError) as error:
        save(checkpoints, 2)
    text = str(error.value)
    assert "checkpoint of step 2 could not be written" in text
    assert ("Input/output error" if number == errno.EIO else "no space left on the device") in text
    assert text.endswith(f"the newest good one is {paths[0]}")
    monkeypatch.undo()
    assert_untouched(checkpoints, paths)


def test_a_library_s_own_error_is_understood(tmp_path):
    full = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "no space left" in why(full, tmp_path / "not" / "there")
    assert "ulimit" in why(RuntimeError("File too large (os error 27)"), tmp_path)
    assert why(ValueError("odd"), tmp_path) == "ValueError: odd"


def test_a_value_that_cannot_be_kept_leaves_nothing(checkpoints):
    with pytest.raises(CheckpointError, match=r"program\.hook: a .*_method cannot be kept"):
        checkpoints.save(1, {"program": {"hook": len}}, ABOUT)
    assert not checkpoints.folder.exists()


def test_an_interrupt_while_saving_leaves_nothing_and_is_passed_on(checkpoints, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(checkpoints, 1)
    assert list(checkpoints.folder.iterdir()) == []


def test_torn_writes_at_any_length(checkpoints, tmp_path):
    """A limit on the size of files cuts every file at every length that it can have."""
    paths = save(checkpoints, 1)
    sizes = {n: (paths[0] / n).stat().st_size for n in (TENSORS, STATE, MANIFEST)}
    limits = sorted({size * part // 12 for size in sizes.values() for part in range(13)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    failed = 0
    for limit in limits:
        text = ""
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            checkpoints.save(2, tree(2), ABOUT)
        except CheckpointError as error:
            text = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if text:
            failed += 1
            assert "a file would be larger than is allowed" in text
            assert_untouched(checkpoints, paths)
        else:
            assert checkpoints.load(checkpoints.path(2)).tree["position"] == 2
            shutil.rmtree(checkpoints.path(2))
    assert failed >= 20
    assert failed < len(limits)  # the last limit is enough


@pytest.fixture
def small_device(tmp_path):
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("wing", ["numpy_wing", "mapsto.torch.wing"])
def test_a_device_that_is_really_full(small_device, wing):
    import torch

    checkpoints = Checkpoints(small_device / "checkpoints", importlib.import_module(wing))
    make = np.zeros if wing == "numpy_wing" else lambda n: torch.zeros(n, dtype=torch.float64)
    save = lambda step: checkpoints.save(step, {"program": {"w": make(8000)}, "position": step}, ABOUT)  # noqa: E731
    paths = [save(step) for step in (1, 2, 3)]
    with pytest.raises(CheckpointError, match=r"no space left on the device \(\d+\.\d MB free at .*the newest good") as error:
        save(4)
    assert str(error.value).endswith(str(paths[-1]))
    assert_untouched(checkpoints, paths)
    with pytest.raises(CheckpointError, match="no space left"):  # nor does a state.json that does not fit
        checkpoints.save(99, {"program": {"w": make(1), "text": "x" * 300_000}, "position": 99}, ABOUT)
    assert_untouched(checkpoints, paths)
