"""Ctrl-C and SIGTERM: the first saves and says how to go on, the second ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import numpy_wing
import pytest
import runs
from runs import fit, numpy_spec, trajectory

from mapsto.core.errors import DataError
from mapsto.engine.folder import RunFolder
from mapsto.engine.run import Run
from mapsto.engine.signals import interruptible

HERE = str(Path(__file__).parent)
SCRIPT = """
    import sys, time; sys.path[:0] = [sys.argv[2]]
    import numpy_wing; from mapsto.core.wings import add_wing; add_wing(numpy_wing.FRAMEWORK)
    import runs
    from mapsto.engine.run import Run
    def slowly(event):
        print(event.name, event.step, flush=True)
    step = numpy_wing.Program.step
    def slow(self, batch):
        time.sleep(0.02)
        return step(self, batch)
    numpy_wing.Program.step = slow
    if len(sys.argv) > 3:  # a save that takes its time
        save = numpy_wing.save_tensors
        numpy_wing.save_tensors = lambda tensors, path: (print("saving", flush=True), time.sleep(60), save(tensors, path))
    spec = runs.numpy_spec(steps=2000, log_every=1, checkpoint={"every": 1000}, evaluate_every=1000)
    result = Run(spec, sys.argv[1], observers=[slowly]).fit()
    print("result", result.reason, result.why, result.steps, result.go_on)
"""


def start(folder, *more):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder), HERE, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_ends_the_step_saves_and_says_how_to_go_on(tmp_path, number):
    child = start(tmp_path / "run")
    for line in child.stdout:
        if line.startswith("log 3"):
            child.send_signal(number)
            break
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    words = out.splitlines()[-1].split()
    step = int(words[3])
    assert words[:3] == ["result", "interrupted", number.name]
    assert 3 <= step < 50
    assert out.splitlines()[-1].endswith(f"mapsto train --resume {tmp_path / 'run'}")
    assert out.splitlines()[-3:-1] == [f"checkpoint {step}", f"end {step}"]
    result = Run.resume(tmp_path / "run", "steps=60").fit()
    assert result.steps == 60
    spec = numpy_spec(steps=2000, log_every=1, checkpoint={"every": 1000}, evaluate_every=1000)
    fit(spec, tmp_path / "whole", observers=[lambda e: e.run.ask_to_stop("60") if (e.name, e.step) == ("log", 60) else None])
    resumed, whole = (trajectory(tmp_path / n, 60) for n in ("run", "whole"))
    assert resumed["program.model.w1"] != whole["program.model.w1"]  # its schedule is of 60 steps now
    Run.resume(tmp_path / "run", "steps=2000", checkpoint=step, observers=[_stop_at_60]).fit()
    assert trajectory(tmp_path / "run", 60) == whole


def _stop_at_60(event):
    if (event.name, event.step) == ("log", 60):
        event.run.ask_to_stop("60")


def test_the_second_signal_ends_at_once(tmp_path):
    child = start(tmp_path / "run", "slow save")
    for line in child.stdout:
        if line.startswith("log 3"):
            child.send_signal(signal.SIGINT)
        if line.startswith("saving"):
            child.send_signal(signal.SIGINT)
            break
    began = time.monotonic()
    _, err = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert child.returncode != 0
    assert time.monotonic() - began < 55  # it did not sit the save out
    assert list((tmp_path / "run/checkpoints").iterdir()) == []
    assert [r["detail"]["reason"] for r in RunFolder(tmp_path / "run").records("end")] == ["aborted"]


def test_a_signal_at_any_moment_of_the_loop_is_obeyed_at_its_step(tmp_path):
    """Asked for in the middle of a step, an evaluation, a save and while the next due step is computed."""
    for event, step in (("log", 4), ("evaluate", 5), ("epoch", 6), ("checkpoint", 9)):

        def interrupt(e, event=event, step=step):
            if (e.name, e.step) == (event, step):
                os.kill(os.getpid(), signal.SIGINT)

        _, result = fit(numpy_spec(), tmp_path / event, observers=[interrupt])
        assert (result.reason, result.why, result.steps) == ("interrupted", "SIGINT", step)


class Dying:
    """A reader whose processes get the signal that the run gets."""

    records, batches_per_epoch = 50, 6

    def __init__(self, asks: bool) -> None:
        self.asks = asks

    def stream(self, start, stop):
        return contextlib.nullcontext(self.pairs())

    def pairs(self):
        for position in range(7):
            yield position, runs.Blobs()[np.arange(9)]
        if self.asks:
            os.kill(os.getpid(), signal.SIGTERM)
        raise DataError("worker 0 was killed by signal SIGTERM")


def test_a_signal_that_reaches_the_reading_processes_too_is_no_failure(tmp_path, caplog):
    data = {"train": Dying(asks=True)}
    _, result = fit(numpy_spec(data=data, checkpoint={"every": 100}), tmp_path / "run")
    assert (result.reason, result.why, result.steps) == ("interrupted", "SIGTERM", 7)
    assert runs.saved(tmp_path / "run", 7)["position"] == 7
    assert "the reader ended as the run did" in caplog.text
    with pytest.raises(DataError, match="killed by signal"):
        fit(numpy_spec(data={"train": Dying(asks=False)}), tmp_path / "other")


def test_what_the_program_raises_is_a_failure_also_after_a_signal(tmp_path, monkeypatch):
    def broken(self, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        raise DataError("the batch does not fit")

    monkeypatch.setattr(numpy_wing.Program, "step", broken)
    with pytest.raises(DataError, match="does not fit"):
        fit(numpy_spec(), tmp_path / "run")
    assert list((tmp_path / "run").glob("checkpoints/*")) == []


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    def own(number, frame): ...

    before = signal.signal(signal.SIGTERM, own)
    held = signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = []
    try:
        with interruptible(asked.append):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked == ["SIGTERM"]
            with pytest.raises(KeyboardInterrupt, match="a second SIGTERM"):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, held)


def test_outside_the_main_thread_a_run_leaves_signals_alone(tmp_path):
    before, found = signal.getsignal(signal.SIGINT), []

    def work():
        result = fit(numpy_spec(), tmp_path / "run", observers=[lambda e: found.append(signal.getsignal(signal.SIGINT))])[1]
        found.append(result.reason)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[-1] == "finished"
    assert all(handler is before for handler in found[:-1])
    assert runs.saved(tmp_path / "run", 13)["position"] == 13


def test_a_warning_asks_and_the_signal_it_warns_of_is_the_first():
    asked = []
    with interruptible(asked.append):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match="a second SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
    assert asked == ["SIGUSR1", "SIGUSR1", "SIGTERM"]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
