"""The doctor against planted faults: runs that were really trained with one thing wrong, each beside a healthy twin."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import faults
import numpy_wing
import pytest
from runs import fit, numpy_spec

from mapsto.engine.diagnosis import DETECTORS, diagnose
from mapsto.engine.diagnosis.finding import Finding, Gravity, ranked
from mapsto.engine.folder import RunFolder

HERE = Path(__file__).parent


def spec(*transforms, **changes):
    """A run of 120 steps and 24 logs; of the healthy one nothing is said."""
    source = {"use": "runs:Blobs", "records": 60}
    fields = {
        "data": {
            "train": {"source": source, "batch_size": 6, "shuffle": True, "transforms": list(transforms)},
            "valid": {"source": {**source, "records": 20, "seed": 1}, "batch_size": 20},
        },
        "steps": 120,
        "log_every": 5,
        "evaluate_every": 20,
        "checkpoint": {"every": 60, "keep": None, "best": 0},
    }
    return numpy_spec(**{**fields, **changes})


TIMED = {"data_starved", "throughput_dropping", "checkpoints_costly"}
"""What a busy machine may add to any run."""


def found(folder, name):
    """The finding of that name; besides it there is nothing but what the machine may add."""
    findings = {finding.name: finding for finding in diagnose(folder).findings}
    assert set(findings) - TIMED <= {name} <= set(findings), findings
    finding = findings[name]
    for place in finding.where:
        file, _, line = place.split(" (")[0].rpartition(":")
        assert (Path(file).is_file() and line.isdigit()) or Path(place).exists(), place
    return finding


def is_healthy(diagnosis):
    """Whether nothing is said but what the machine may add."""
    return {finding.name for finding in diagnosis.findings} <= TIMED


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    from mapsto.core.wings import WINGS

    folder = tmp_path_factory.mktemp("healthy") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WINGS, "numpy", numpy_wing.FRAMEWORK)
        fit(spec(), folder)
    return folder


def test_a_healthy_run_is_said_to_be_so_and_what_was_looked_at(healthy):
    diagnosis = diagnose(healthy)
    assert is_healthy(diagnosis), diagnosis.findings
    assert {d.name for d in DETECTORS} == set(diagnosis.looked) | set(diagnosis.unseen)
    missed = {"loss_scale", "steps_skipped", "no_gradient", "weights_unchanged", "update_ratio", "slow_rank"}
    assert set(diagnosis.unseen) == missed  # those of the torch wing, and of ranks
    assert diagnosis.unseen["slow_rank"] == "times by rank: one process"


# -- how it ended ------------------------------------------------------------------------------------------------------
def test_logs_that_lack_a_time_or_have_none_stop_no_detector(tmp_path, healthy):
    for lack in ("time/step", "time/data", "throughput/records"):
        run = tmp_path / lack.replace("/", "-")
        shutil.copytree(healthy, run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for number, line in enumerate(one for one in lines if one.get("name") == "log"):
            if number % 3 == 0:
                line["metrics"].pop(lack, None)
            elif number % 3 == 1:
                line["metrics"][lack] = "much"
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert {finding.name for finding in diagnose(run).findings} <= TIMED


def test_a_crash_is_told_with_the_line_that_raised(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fit(spec({"use": "faults:Late", "after": 1}), tmp_path / "run")
    finding = found(tmp_path / "run", "crashed")
    assert finding.gravity.name == "FATAL"
    assert "failed at step 1: ZeroDivisionError: too late" in finding.title
    line = next(i for i, t in enumerate(Path(faults.__file__).read_text().splitlines(), 1) if "raise ZeroDivisionError" in t)
    assert finding.where[0] == f"{faults.__file__}:{line} (in __call__)"


def started(tmp_path, code: str) -> subprocess.Popen[str]:
    """A process that trains in tmp_path/run and will not end by itself."""
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import numpy_wing\n"
        "from mapsto.core.wings import add_wing\n"
        "from mapsto.engine import stall\n"
        "add_wing(numpy_wing.FRAMEWORK)\n"
        "from runs import fit\nfrom test_doctor import spec\n" + code
    )
    return subprocess.Popen([sys.executable, str(script), str(tmp_path / "run")], text=True, start_new_session=True)


def until(condition, process, limit: float = 60.0):
    ends = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < ends, f"not within {limit:g} s"
        assert process.poll() is None, f"the process ended with {process.returncode}"
        time.sleep(0.05)


def test_a_run_that_stands_still_is_told_with_the_line_where_it_stands_then_that_it_was_killed(tmp_path):
    code = "stall.LIMIT = 0.5\nfit(spec({'use': 'faults:Hang', 'after': 23}), sys.argv[1])\n"
    process = started(tmp_path, code)
    file = tmp_path / "run" / "logs" / "stalls" / "rank-0.txt"
    try:
        until(lambda: file.is_file() and file.read_text().count("File ") > 3, process)
        finding = found(tmp_path / "run", "stalled")
        assert finding.gravity.name == "FATAL"
        assert finding.title == "the run stands still after step 20"  # the last that it wrote down
        text = Path(faults.__file__).read_text().splitlines()
        line = next(i for i, t in enumerate(text, 1) if "the line that a doctor must name" in t)
        assert finding.where[0] == f"{faults.__file__}:{line} (in __call__)"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "stood still and was ended" in found(tmp_path / "run", "stalled").title
    shutil.rmtree(tmp_path / "run" / "logs")  # without the stacks it is a run that was killed
    finding = found(tmp_path / "run", "killed")
    assert finding.gravity.name == "FATAL"
    assert "ended from outside after step 20" in finding.title
    assert "20 steps were taken after the last checkpoint" in finding.evidence[-1]


def test_a_run_that_is_going_on_and_one_that_was_gone_on_with_are_healthy(tmp_path):
    seen = []

    def look(event):
        if event.name == "log" and event.step in (5, 100):
            seen.append(diagnose(tmp_path / "run"))
        if event.name == "log" and event.step == 60:
            event.run.ask_to_stop("for now")

    run, _ = fit(spec(), tmp_path / "run", observers=[look])
    run.fit(resume=True)
    assert [d.status for d in seen] == ["unfinished", "unfinished"]
    assert all(is_healthy(d) for d in [*seen, diagnose(tmp_path / "run")])


def test_the_first_rank_that_failed_is_told_and_not_those_that_missed_it(tmp_path, healthy):
    shutil.copytree(healthy, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.cut(60)
    errors = tmp_path / "run" / "logs" / "errors"
    errors.mkdir(parents=True)
    trace = f'Traceback (most recent call last):\n  File "{faults.__file__}", line 30, in slow\n    time.sleep\nKeyError: 7'
    now = time.time()
    for rank, (kind, message, after) in enumerate(
        [("RuntimeError", "[gloo] Connection reset by peer", 0.1), ("KeyError", "7", 0.2), ("RuntimeError", "Timed out", 0.3)]
    ):
        record = {
            "rank": rank,
            "host": "a",
            "step": 61,
            "time": now + after,
            "type": kind,
            "message": message,
            "traceback": trace,
        }
        (errors / f"rank-{rank}.json").write_text(json.dumps(record))
    finding = found(tmp_path / "run", "crashed")
    assert finding.title == "rank 1 (on a) failed at step 61: KeyError: 7"
    assert finding.values["rank"] == 1
    assert "2 more ranks ended with it" in finding.evidence[0]


def test_a_run_on_another_host_is_alive_while_it_gives_signs_of_life(tmp_path, healthy):
    shutil.copytree(healthy, tmp_path / "run")
    RunFolder(tmp_path / "run").cut(60)
    (tmp_path / "run" / ".lock").unlink()  # this very process trained there
    file = tmp_path / "run" / "logs" / "stalls" / "rank-0.txt"
    file.parent.mkdir(parents=True)

    def beat(host, age):
        about = {"rank": 0, "host": host, "pid": 1, "step": 61, "time": time.time() - age, "limit": 60.0}
        file.write_text(json.dumps(about) + "\n")
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        aged = [json.dumps({**json.loads(line), "time": time.time() - age - 1}) + "\n" for line in lines]
        (tmp_path / "run" / "metrics.jsonl").write_text("".join(aged))

    beat("elsewhere", 30)
    assert is_healthy(diagnose(tmp_path / "run"))
    beat("elsewhere", 300)
    assert "rank 0 on elsewhere" in found(tmp_path / "run", "killed").evidence[0]
    beat(socket.gethostname(), 30)
    found(tmp_path / "run", "killed")


def test_restarts_by_a_launcher_are_told(tmp_path, healthy):
    shutil.copytree(healthy, tmp_path / "run")
    logs = tmp_path / "run" / "logs"
    (logs / "attempts").mkdir(parents=True)
    told = [
        {"event": "started", "attempt": 1, "time": 1},
        {"event": "failed", "attempt": 1, "kind": "lost", "ranks": [2], "sentence": "rank 2 was ended by SIGKILL", "time": 2},
        {"event": "started", "attempt": 2, "time": 3},
        {"event": "ended", "code": 0, "time": 4},
    ]
    (logs / "launch.jsonl").write_text("".join(json.dumps(t) + "\n" for t in told) + '{"event": "fai')
    finding = found(tmp_path / "run", "restarted")
    assert finding.gravity.name == "COSTLY"
    assert finding.evidence[0] == "attempt 1: rank 2 was ended by SIGKILL"


def test_an_observer_that_fell_out_is_told(tmp_path):
    fit(spec(observers=["faults:raising"]), tmp_path / "run")
    finding = found(tmp_path / "run", "observers_detached")
    assert "no board to write to" in finding.evidence[0]


# -- what it learned ---------------------------------------------------------------------------------------------------
def test_a_learning_rate_of_zero_is_told_and_explains_that_nothing_is_learned(tmp_path):
    fit(spec(optimizer={"use": "numpy_wing:adam", "lr": 0.0}), tmp_path / "run")
    finding = found(tmp_path / "run", "learning_rate_zero")
    assert "100 % of the steps, from step 5 on" in finding.title
    assert finding.where[2].startswith(f"{tmp_path / 'run' / 'spec.yaml'}:")
    assert "lr: 0.0" in (tmp_path / "run" / "spec.yaml").read_text().splitlines()[int(finding.where[2].split(":")[1][:2]) - 1]


def test_a_loss_that_stays_is_told(tmp_path):
    quiet = {"use": "numpy_wing:Model", "inputs": 4, "dropout": 0.0}
    data = {"train": {"source": {"use": "runs:Blobs", "records": 60}, "batch_size": 60}}
    fit(spec(optimizer={"use": "numpy_wing:adam", "lr": 1e-9}, model=quiet, data=data), tmp_path / "run")
    finding = found(tmp_path / "run", "loss_stuck")
    first = next(RunFolder(tmp_path / "run").records("log"))["detail"]["first"]["loss"]
    assert f"{first:.4g} at the first step" in finding.title


def test_a_loss_that_rises_is_told_with_where_it_was_best(tmp_path):
    fit(spec(optimizer={"use": "numpy_wing:adam", "lr": 40.0}), tmp_path / "run")
    finding = found(tmp_path / "run", "loss_diverging")
    assert "at step 0 to" in finding.title  # it was never again as low as before the first update


def test_learning_by_heart_is_told_as_overfitting(tmp_path):
    model = {"use": "numpy_wing:Model", "inputs": 4, "hidden": 24, "dropout": 0.0}
    source = {"use": "faults:Guesses"}
    data = {
        "train": {"source": source, "batch_size": 24, "shuffle": True},
        "valid": {"source": {**source, "seed": 1}, "batch_size": 24},
    }
    fit(spec(model=model, data=data, steps=300), tmp_path / "run")
    finding = found(tmp_path / "run", "overfitting")
    points = [(r["metrics"]["valid/loss"], r["step"]) for r in RunFolder(tmp_path / "run").records("evaluate")]
    assert finding.steps[0] == min(points)[1]
    assert "train/loss: " in finding.evidence[1]


# -- time and memory ---------------------------------------------------------------------------------------------------
def test_waiting_for_data_is_told(tmp_path, simulated, monkeypatch):
    step, seconds = numpy_wing.Program.step, 0.01

    def longer(self, batch):
        faults.CLOCK[0] += seconds
        return step(self, batch)

    monkeypatch.setattr(numpy_wing.Program, "step", longer)
    fit(spec("faults:slow"), tmp_path / "run")
    finding = found(tmp_path / "run", "data_starved")
    assert finding.gravity.name == "COSTLY"
    assert finding.values == {"share": pytest.approx(0.5), "seconds": pytest.approx(115 * 0.01)}
    assert "data.train.workers=2" in finding.advice[0]
    seconds = 0.04  # the twin waits as long, and that is a fifth of its steps
    fit(spec("faults:slow"), tmp_path / "twin")
    assert {finding.name for finding in diagnose(tmp_path / "twin").findings} <= {"checkpoints_costly"}  # by the real clock


def test_costly_checkpoints_are_told(tmp_path, monkeypatch):
    tree = numpy_wing.Program.state_tree

    def copied(self):
        time.sleep(0.02)
        return tree(self)

    monkeypatch.setattr(numpy_wing.Program, "state_tree", copied)
    fit(spec(checkpoint={"every": 2, "keep": 2, "best": 0}), tmp_path / "run")
    finding = found(tmp_path / "run", "checkpoints_costly")
    assert "60 of them" in finding.evidence[0]
    assert int(finding.advice[0].split("=")[1].split(",")[0]) > 2


def test_memory_that_grows_is_told_with_its_pace(tmp_path):
    try:
        fit(spec("faults:leaky"), tmp_path / "run")
    finally:
        faults.LEAKED.clear()
    finding = found(tmp_path / "run", "memory_growing")
    assert finding.values["bytes_a_step"] == pytest.approx(6 * 2**20, rel=0.3)


# -- checkpoints -------------------------------------------------------------------------------------------------------
def test_a_checkpoint_of_which_a_byte_changed_and_one_that_is_gone_are_told(tmp_path, healthy):
    shutil.copytree(healthy, tmp_path / "run")
    older, newer = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    file = next(older.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    finding = found(tmp_path / "run", "checkpoints_damaged")
    assert finding.gravity.name == "WRONG"
    assert finding.values == {"damaged": [older.name], "intact": [newer.name]}
    shutil.rmtree(newer)
    finding = found(tmp_path / "run", "checkpoints_damaged")
    assert finding.gravity.name == "FATAL"
    assert f"{newer.name} was written and is not there" in finding.evidence


def test_what_two_sets_have_is_told_of_each(tmp_path):
    finding = functools.partial(Finding, "classes_missing", Gravity.WRONG)
    cause = Finding("input_constant", Gravity.NOTE, "an input is constant", values={})
    shared = Finding("records_shared", Gravity.WRONG, "records are shared", values={})
    found = ranked([finding("of valid"), finding("of valid_hard"), cause, shared])
    assert [f.title for f in found] == ["of valid", "of valid_hard", "an input is constant"]
    assert found[2].explains == ("records are shared",)


# -- ranks of a log ----------------------------------------------------------------------------------------------------
def test_ranking_puts_the_gravest_first_and_a_cause_takes_its_consequences_in(tmp_path, simulated):
    with pytest.raises(ZeroDivisionError):
        fit(spec({"use": "faults:slow"}, {"use": "faults:Late"}, observers=["faults:raising"]), tmp_path / "run")
    diagnosis = diagnose(tmp_path / "run")
    assert [f.name for f in diagnosis.findings] == ["crashed", "data_starved"]
