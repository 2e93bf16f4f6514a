"""Ranks that train: what a failure of one of them comes to, and what is left of the run afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from tests.launch.launches import await_, command, is_alive, launch

from mapsto.engine.folder import RunFolder
from mapsto.launch.supervisor import GRACE

RECIPE = Path(__file__).with_name("troubled.py")
TIMEOUT = 3.0
"""Seconds: the mesh's, in the recipe."""


def train(server, folder, *changes, ranks="2", **options):
    """Supervise a run of the recipe."""

    def words(folder, attempt):
        return ["train", str(RECIPE), *changes, "--run", str(folder), *["--continue"] * (attempt > 1), "--quiet"]

    return launch(server, folder, ranks=ranks, call="mapsto.cli.entry:main", words=words, **options)


def told_of(server, folder, *changes):
    """What a fork with the framework reads of a run: its weights' digest and its steps."""
    told = folder.with_suffix(".json")
    server.fork("tests.launch.troubled:tell", [str(folder), str(told), *changes])
    await_(lambda: told.exists() and told.read_text().endswith("}"))
    return json.loads(told.read_text())


@pytest.fixture(scope="module")
def whole(torch_server, tmp_path_factory):
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(torch_server, folder).code == 0
    found = told_of(torch_server, folder)
    assert found["steps"] == list(range(1, 25))
    return found


@pytest.mark.parametrize("place", ["1:5", "0:27"])  # before the first checkpoint; the leader, after the third
def test_a_killed_rank_costs_no_record_and_no_bit(torch_server, tmp_path, whole, place):
    told = train(torch_server, tmp_path / "run", f"model.trouble=kill:{place}")
    assert told.code == 0, told.text()
    assert f"rank {place[0]} was ended by SIGKILL" in told.text()
    assert told_of(torch_server, tmp_path / "run", f"model.trouble=kill:{place}") == whole


def test_an_error_on_a_follower_is_shown_with_its_line_and_ends_all(torch_server, tmp_path):
    told = train(torch_server, tmp_path / "run", "model.trouble=always:raise:1:5")
    assert len(told.events("started")) == 2  # once more, for a RuntimeError may pass
    assert "the same error came at the same step twice" in told.error
    assert "rank 1 failed first" in told.text()
    assert "planted" in told.text()
    assert "Connection" not in told.text()
    log = (tmp_path / "run" / "logs" / "rank-1.log").read_text()
    assert 'raise RuntimeError("planted")' in log


def test_a_rank_that_hangs_is_named_with_its_line(torch_server, tmp_path, whole):
    told = train(torch_server, tmp_path / "run", "model.trouble=loop:1:5")
    assert told.code == 0, told.text()
    assert re.search(
        r"rank 1 did not come: it was (waiting|running); rank 0 waited in collective \d+, all_reduce of float32", told.text()
    )
    assert re.search(r"rank 1 was at\n.*\n.*troubled.py\", line \d+ in act", told.text())
    failed, started = told.events("failed")[0]["time"], told.events("started")[0]["time"]
    assert failed - started < TIMEOUT + GRACE + 15  # and the time of a busy machine
    assert told_of(torch_server, tmp_path / "run", "model.trouble=loop:1:5") == whole


def test_a_rank_in_another_collective_is_told_and_not_tried_again(torch_server, tmp_path):
    told = train(torch_server, tmp_path / "run", "model.trouble=diverge:1:5", ranks="3")
    assert len(told.events("started")) == 1
    assert told.events("failed")[0]["kind"] == "diverged"
    assert "all_gather of float32[3]" in told.text() or "troubled.py" in told.text()


def test_a_spec_that_is_wrong_is_one_message(tmp_path):
    with command("train", RECIPE, "--ranks", 2, "optimizer.lrr=1", folder=tmp_path) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.startswith("error: optimizer.lrr: ")
    assert said.count("did you mean 'lr'?") == 1
    assert not (tmp_path / "runs").exists()


def test_the_command_line_stops_saved_goes_on_and_leaves_nothing(torch_server, tmp_path):
    run = tmp_path / "run"
    with command("train", RECIPE, "--ranks", 2, "--run", run, "model.pause=0.05", folder=tmp_path) as process:
        await_(lambda: list(RunFolder(run).records("log")), 120)
        forked = [int(p.name) for p in Path("/proc").glob("[0-9]*") if _session_of(p) and _parent(p) in _children(process.pid)]
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "stopping after this step" in said
    assert "interrupted at step" in said
    assert len(forked) >= 2
    await_(lambda: not any(map(is_alive, forked)), 10)
    told = train(torch_server, run, "model.pause=0.0")  # with --run alone it is refused, as ever
    assert "holds a run already" in told.error
    step = max(r["step"] for r in RunFolder(run).records("checkpoint"))
    assert 0 < step < 24

    def words(folder, attempt):
        return ["train", str(RECIPE), "model.pause=0.05", "--run", str(folder), "--continue", "--quiet"]

    told = launch(torch_server, run, call="mapsto.cli.entry:main", words=words)
    assert told.code == 0, told.text()
    assert max(r["step"] for r in RunFolder(run).records("checkpoint")) == 24


def test_the_server_has_one_thread(torch_server):
    pid = torch_server.fork("time:sleep", [30])  # by now it has imported everything
    try:
        assert len(list(Path(f"/proc/{torch_server._process.pid}/task").iterdir())) == 1
    finally:
        os.kill(pid, signal.SIGKILL)


def _stat(path):
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _parent(path):
    found = _stat(path)
    return int(found[1]) if found else -1


def _session_of(path):
    found = _stat(path)
    return bool(found) and found[3] == path.name  # a leader of its session, as ranks are


def _children(pid):
    return {int(p.name) for p in Path("/proc").glob("[0-9]*") if _parent(p) == pid}
