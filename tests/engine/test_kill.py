"""Killed with SIGKILL at any moment, a run loses at most the steps since its last finished checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from runs import trajectory

from mapsto.engine.folder import RunFolder


def sweep(tmp_path, moments: int, seed: int) -> None:
    script = Path(__file__).parent / "kill_sweep.py"
    strict = ["-W", "error", "-W", "ignore::DeprecationWarning"]  # Python 3.12 warns of any fork beside threads
    command = [sys.executable, *strict, str(script), str(tmp_path), str(moments), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    whole = trajectory(tmp_path / "whole/run", 12, "torch")
    for run in told:
        assert run["error"] is None, run["error"]
        for kill in run["kills"]:
            assert kill["torn"] == []
            assert kill["newest"] >= kill["acknowledged"]
        folder = Path(run["folder"])
        assert trajectory(folder, 12, "torch") == whole
        steps = Counter((r["name"], r["step"]) for r in RunFolder(folder).records("log", "evaluate", "epoch", "checkpoint"))
        assert set(steps.values()) == {1}
        assert [s for n, s in sorted(steps) if n == "checkpoint"] == list(range(1, 13))
        assert not [p.name for p in (folder / "checkpoints").iterdir() if p.name.startswith(".")]
    kills = [kill for run in told for kill in run["kills"]]
    assert len(kills) >= moments
    assert sum(kill["saving"] for kill in kills) >= moments // 20  # some were hit in the middle of a save
    assert len({kill["newest"] for kill in kills}) >= 8  # and at many different steps


def test_a_hundred_moments(tmp_path):
    sweep(tmp_path, 100, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_five_hundred_moments(tmp_path, seed):
    sweep(tmp_path, 100, seed)
