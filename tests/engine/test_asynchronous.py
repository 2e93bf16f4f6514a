"""Checkpoints that are written while the run goes on: the same run, the same files; errors are told at the next step."""

from __future__ import annotations

import errno
import os
import threading
import time

import numpy_wing
import pytest
from runs import bits, fit, numpy_spec, saved, trajectory

from mapsto.core.errors import CheckpointError
from mapsto.engine.checkpoints.checkpoint import Checkpoints, checkpoint_paths, step_of
from mapsto.engine.folder import RunFolder
from mapsto.engine.run import Run
from mapsto.engine.wing import find_wing

OFTEN = {"every": 3, "keep": 1, "best": 1}


def spec(asynchronous: bool = True, **changes):
    return numpy_spec(**{"checkpoint": {**OFTEN, "asynchronous": asynchronous}, **changes})


def steps(folder):
    return [step_of(p) for p in checkpoint_paths(folder / "checkpoints")]


@pytest.fixture
def slow(monkeypatch):
    """A slow disk."""
    save = numpy_wing.save_tensors

    def slowly(tensors, path):
        time.sleep(0.05)
        save(tensors, path)

    monkeypatch.setattr(numpy_wing, "save_tensors", slowly)


@pytest.mark.usefixtures("slow")
def test_the_run_and_its_files_are_those_of_a_run_that_waits(tmp_path):
    seen = []
    for name, asynchronous in (("waits", False), ("goes on", True)):
        told = []

        def note(event, told=told):
            busy = any(t.name == "mapsto-checkpoint" for t in threading.enumerate())
            told.append((event.name, event.step, dict(event.detail).get("best"), busy))

        fit(spec(asynchronous), tmp_path / name, observers=[note])
        seen.append(told)
    checkpoints = [[one[:3] for one in told if one[0] == "checkpoint"] for told in seen]
    assert checkpoints[0] == checkpoints[1]
    assert not any(busy for *_, busy in seen[0])
    assert any(busy for *_, busy in seen[1])
    order = [step for name, step, *_ in seen[1] if name in ("checkpoint", "log", "evaluate")]
    assert order != sorted(order)  # told when it was complete, after later steps
    assert steps(tmp_path / "waits") == steps(tmp_path / "goes on")
    for step in steps(tmp_path / "waits"):
        assert trajectory(tmp_path / "waits", step) == trajectory(tmp_path / "goes on", step)
    assert [r["step"] for r in RunFolder(tmp_path / "goes on").records("checkpoint")] == [s for _, s, _ in checkpoints[1]]


def test_what_is_copied_is_not_what_later_steps_change(tmp_path):
    store = Checkpoints(tmp_path, find_wing("numpy"))
    tree = {"program": Run(spec(), tmp_path / "run").program.state_tree()}
    writing = store.begin(1, tree, {"best": {"entries": []}})
    before = bits(tree)
    for array in tree["program"]["model"].values():
        array += 1
    writing()
    assert bits(store.load(store.path(1)).tree) == before != bits(tree)


@pytest.mark.usefixtures("slow")
def test_an_error_is_told_after_the_next_step_and_leaves_the_earlier_ones(tmp_path, monkeypatch):
    save = numpy_wing.save_tensors

    def full(tensors, path):
        if "step-00000006" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, path)

    run = Run(spec(log_every=100), tmp_path / "run")
    told = "the checkpoint of step 6 could not be written: no space left on the device"
    with monkeypatch.context() as patch:
        patch.setattr(numpy_wing, "save_tensors", full)
        with pytest.raises(CheckpointError, match=told):
            run.fit()
    assert 6 <= run.program.position < 13
    assert steps(tmp_path / "run") == [3, 5] or steps(tmp_path / "run") == [5]
    whole, again = fit(numpy_spec(), tmp_path / "whole")[0], Run.resume(tmp_path / "run")
    again.fit()
    assert whole.program.position == again.program.position == 13
    assert trajectory(tmp_path / "run", 13)["program.model.w1"] == trajectory(tmp_path / "whole", 13)["program.model.w1"]


@pytest.mark.usefixtures("slow")
def test_a_run_that_fails_meanwhile_keeps_what_was_begun(tmp_path, monkeypatch):
    step = numpy_wing.Program.step

    def fails(self, batch):
        if self.taken == 3:
            raise ValueError("planted")
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(numpy_wing.Program, "step", fails)
        with pytest.raises(ValueError, match="planted"):
            fit(spec(), tmp_path / "run")
    (end,) = RunFolder(tmp_path / "run").records("end")
    assert end["detail"]["last"].endswith("step-00000003")
    assert saved(tmp_path / "run", 3)["position"] == 3
    Run.resume(tmp_path / "run").fit()
    told = [r["step"] for r in RunFolder(tmp_path / "run").records("checkpoint")]
    assert told.count(3) == 1


@pytest.mark.usefixtures("slow")
def test_an_interrupt_while_something_is_written_ends_at_once_and_the_rest_is_removed(tmp_path, monkeypatch):
    step = numpy_wing.Program.step

    def interrupted(self, batch):
        if self.taken == 3:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(numpy_wing.Program, "step", interrupted)
    began = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        fit(spec(), tmp_path / "run")
    assert steps(tmp_path / "run") == []  # nobody waited
    until = time.monotonic() + 10
    while threading.active_count() > began and time.monotonic() < until:
        time.sleep(0.01)
    assert steps(tmp_path / "run") == [3]
