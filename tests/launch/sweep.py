"""Kill random ranks of runs with SIGKILL at random moments; every run must come to its end, with the weights of one left alone.

    python -m tests.launch.sweep 50 [seed]          prints what was killed where, and the verdict

A run has asynchronous sharded checkpoints and strict mode, so that the reference holds for any number of ranks.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.launch.launches import Told, is_alive, launch
from tests.launch.test_real_ranks import RECIPE, told_of

from mapsto.cli.launching import PRELOAD
from mapsto.engine.folder import RunFolder
from mapsto.launch.supervisor import Supervisor
from mapsto.processes.forks import ForkServer
from mapsto.wings.torch import TORCH

CHANGES = (
    "mesh={shard: -1, timeout: 10.0}", "strict=true", "checkpoint.asynchronous=true", "checkpoint.every=2", "model.pause=0.005",
)  # fmt: skip
STEPS = list(range(1, 25))


def train(server: ForkServer, folder: Path, ranks: int, **options: Any) -> Told:
    def words(folder: Path, attempt: int) -> list[str]:
        return ["train", str(RECIPE), *CHANGES, "--run", str(folder), *["--continue"] * (attempt > 1), "--quiet"]

    return launch(server, folder, ranks=str(ranks), call="mapsto.cli.entry:main", words=words, restarts=20, **options)


@dataclass
class Killer:
    """Kills ranks of one run at random moments: at a random step (and some milliseconds more), or while they start."""

    rng: random.Random
    wanted: int
    ranks: int
    hit: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, supervisor: Supervisor) -> None:
        folder = supervisor.folder
        while len(self.hit) < self.wanted and supervisor.logs.events("ended") == []:
            attempt, target = supervisor.attempt, step_of(folder) + self.rng.randint(0, 12)
            if not self._wait(supervisor, lambda t=target: step_of(folder) >= min(t, 23)):
                return
            time.sleep(self.rng.uniform(0.0, 0.05))
            self._kill(supervisor)
            self._wait(supervisor, lambda a=attempt: supervisor.attempt > a)

    def _kill(self, supervisor: Supervisor) -> None:
        living = {r: e.pid for r, e in list(supervisor.workers._ranks.items()) if e.code is None and is_alive(e.pid)}
        if not living:
            return
        rank, found = self.rng.choice(sorted(living)), [p.name for p in (supervisor.folder / "checkpoints").glob("*step-*")]
        os.kill(living[rank], signal.SIGKILL)
        saving = any(name.startswith(".") for name in found)
        newest = max((name for name in found if not name.startswith(".")), default="none")
        self.hit.append(
            {"rank": rank, "ranks": self.ranks, "newest": newest, "saving": saving, "step": step_of(supervisor.folder)}
        )

    @staticmethod
    def _wait(supervisor: Supervisor, condition: Callable[[], bool]) -> bool:
        until = time.monotonic() + 60
        while not condition():
            if supervisor.logs.events("ended") or time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True


def step_of(folder: Path) -> int:
    """How far a run has come."""
    try:
        return max((r["step"] for r in RunFolder(folder).records("log")), default=0)
    except FileNotFoundError:  # just now put away by an attempt that begins anew
        return 0


def sweep(server: ForkServer, root: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill until it is enough; what came of it. Raises AssertionError at the first run that does not end as it should."""
    rng, hits, runs = random.Random(seed), [], 0  # type: ignore[var-annotated]
    assert train(server, root / "whole", 2).code == 0
    whole = told_of(server, root / "whole", *CHANGES)
    assert whole["steps"] == STEPS
    while len(hits) < kills:
        runs += 1
        ranks, folder = rng.randint(2, 4), root / str(runs)
        killer = Killer(rng, min(rng.randint(2, 4), kills - len(hits)), ranks)
        told = train(server, folder, ranks, meanwhile=killer)
        assert told.code == 0, told.text()
        found = told_of(server, folder, *CHANGES)
        assert found == whole, (killer.hit, found, whole)
        hits += killer.hit
    return {"kills": len(hits), "runs": runs, "hits": hits, "during a save": sum(hit["saving"] for hit in hits)}


if __name__ == "__main__":
    with (
        ForkServer((*TORCH.preload, *PRELOAD, "tests.launch.troubled"), threads=1) as server,
        tempfile.TemporaryDirectory() as root,
    ):
        found = sweep(server, Path(root), int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    for hit in found.pop("hits"):
        print(*(f"{name} {value}" for name, value in hit.items()), sep=", ")
    print({**found, "verdict": "every run recovered, its weights bitwise those of the run left alone"})
