"""Run by test_kill: forks children that train, kills them at random moments with SIGKILL, and lets others go on.

One process imports torch once and forks; a child needs milliseconds to begin. Prints one JSON line a run that was
carried to its end: its folder and, for each kill, what was on the disk a moment later.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from torch_runs import torch_spec

from mapsto.core.errors import CheckpointError
from mapsto.engine.checkpoints.checkpoint import Checkpoints, step_of
from mapsto.engine.checkpoints.manifest import verify
from mapsto.engine.run import Run
from mapsto.engine.wing import find_wing

torch.set_num_threads(1)


def child(folder: Path, ack: Path, asynchronous: bool = False) -> int:
    """Fork one that trains or goes on; every save that it was told of goes into the file `ack`."""
    plan = {"every": 1, "keep": None, "best": 1, "asynchronous": asynchronous}
    pid = os.fork()
    if pid:
        return pid
    try:
        with open(ack, "a") as acknowledged:

            def note(event):
                if event.name == "checkpoint":
                    acknowledged.write(f"{event.step}\n")
                    acknowledged.flush()

            run = Run(torch_spec(checkpoint=plan), folder, observers=[note])
            run.fit(resume=bool(run.checkpoints.paths()))
        os._exit(0)
    except BaseException:
        (folder.parent / "error.txt").write_text(traceback.format_exc())
        os._exit(1)


def look(folder: Path, ack: Path) -> dict:
    """What is on the disk: the newest checkpoint that loads, the last that was acknowledged, and whether any is torn."""
    checkpoints = Checkpoints(folder / "checkpoints", find_wing("torch"))
    torn = []
    for path in checkpoints.paths():
        try:
            verify(path)
        except CheckpointError as error:
            torn.append(str(error))
    newest = step_of(checkpoints.paths()[-1]) if checkpoints.paths() else 0
    if newest:
        assert checkpoints.load(checkpoints.path(newest)).tree["position"] == newest
    acknowledged = [int(line) for line in ack.read_text().split()] if ack.exists() else []
    saving = len(list((folder / "checkpoints").glob(".step-*.tmp"))) if folder.exists() else 0
    return {"newest": newest, "acknowledged": max(acknowledged, default=0), "torn": torn, "saving": saving}


def carry(folder: Path, rng: random.Random, duration: float) -> dict:
    """Kill and go on until a child reaches the end."""
    ack, kills = folder.parent / "ack", []
    while True:
        if folder.exists() and not list((folder / "checkpoints").glob("step-*")):
            shutil.rmtree(folder)  # killed before its first checkpoint: there is nothing to go on with
        pid = child(folder, ack, rng.random() < 0.5)
        time.sleep(rng.uniform(0, duration))
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            kills.append(look(folder, ack))
            continue
        error = folder.parent / "error.txt"
        return {"folder": str(folder), "kills": kills, "error": error.read_text() if error.exists() else None}


def main(root: Path, wanted: int, seed: int) -> None:
    rng, done = random.Random(seed), 0
    Run(torch_spec(), root / "warm").fit()  # what is imported late is imported before anything forks
    began = time.perf_counter()
    (root / "whole").mkdir()
    _, status = os.waitpid(child(root / "whole" / "run", root / "whole" / "ack"), 0)
    assert status == 0, (root / "whole" / "error.txt").read_text()
    duration = time.perf_counter() - began
    print(json.dumps({"duration": duration}), file=sys.stderr)
    number = 0
    while done < wanted:
        number += 1
        (root / str(number)).mkdir()
        told = carry(root / str(number) / "run", rng, duration)
        done += len(told["kills"])
        print(json.dumps(told), flush=True)
        if told["error"]:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
