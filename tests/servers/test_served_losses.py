"""A process that stands still, and a whole run from the command line with a cluster of its own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import server_toys as toys
from test_parameter_server import _bits, _uninterrupted, served

from mapsto import use
from mapsto.engine.folder import RunFolder

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("pool")
def test_killed_and_silent_workers_lose_their_micro_shards_to_others_and_no_bit_changes(tmp_path: Path) -> None:
    adamw = use("adamw", lr=1e-2)
    wanted = _uninterrupted(toys.spec(optimizer=adamw), 9)
    faults = [use(toys.Faulty, file=str(tmp_path / how), step=step, shard=shard, how=how)
              for how, step, shard in (("kill", 2, 1), ("hang", 5, 3))]  # fmt: skip
    spec = toys.spec(optimizer=adamw, middleware=faults)
    with served(spec, timeout=4.0) as program:
        for _ in range(9):
            program.step()
        assert {p.name for p in tmp_path.iterdir()} == {"kill", "hang"}, "both faults happened"
        assert program.driver.lost == 2
        assert _bits(program.weights()) == _bits(wanted)


def test_a_cluster_of_its_own_leaves_the_run_s_generator_alone() -> None:
    random.seed(5)
    before = random.getstate()
    with served(toys.spec()) as program:
        program.step()
        assert random.getstate() == before  # Ray draws ports and names from it
    assert random.getstate() == before


RECIPE = """
from mapsto import Spec, use
import server_toys as toys


def spec():
    return toys.spec(middleware=[use(toys.Slow, seconds=0.2)], checkpoint={"every": 5})
"""


@pytest.mark.parametrize("ended_by", ["itself", "SIGTERM"])
def test_the_command_starts_a_cluster_and_leaves_no_process(ended_by: str, tmp_path: Path) -> None:
    recipe = tmp_path / "served_recipe.py"
    recipe.write_text(RECIPE)
    steps = 12 if ended_by == "itself" else 5000
    command = [sys.executable, "-m", "mapsto", "train", str(recipe), "--run", str(tmp_path / "run"), f"steps={steps}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    family: set[psutil.Process] = set()
    try:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            family.update(psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ())
            if ended_by == "SIGTERM" and (tmp_path / "run" / "checkpoints" / "step-00000005").is_dir():
                process.send_signal(signal.SIGTERM)
                ended_by = "sent"
            time.sleep(0.2)
        text = process.communicate(timeout=60)[0]
        assert "3 workers, in step" in text
        assert "Traceback" not in text
        assert process.returncode == (0 if ended_by == "itself" else 143), text
        folder = RunFolder(tmp_path / "run")
        end = list(folder.records("end"))[-1]
        assert end["detail"]["reason"] == ("finished" if ended_by == "itself" else "interrupted")
        assert end["step"] == 12 if ended_by == "itself" else end["step"] >= 5
        assert len(family) > 5, "there were servers, workers and Ray's own processes"
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive
    finally:
        for child in [*family, process]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                child.kill()
