"""How long a run takes to go on: a killed rank on one machine, a killed node of three, a node that comes back.

    python benchmarks/recovery.py [--repeat 3]

Seconds from the kill (or the start of the node that comes back) to the first step that is logged afterwards, and the steps
that are done again. The model is tiny, so that this is what the launcher takes: checkpoints every 10 steps, a mesh timeout
of 20 s (which none of these waits for, since the system tells of an ended process at once).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RECIPE = """
import time
import torch
from torch import nn
from mapsto import Spec, use


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        time.sleep(0.02)
        return self.layer(x)


def spec():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).numpy()
    data = {"train": {"source": use("arrays", input=x, target=(x.sum(1) > 0).astype("int64")), "batch_size": 8}}
    return Spec(name="slow", model=use(Slow), data=data, steps=100000, device="cpu", log_every=1, micro_shards=4,
                mesh={"replicate": -1, "timeout": 20.0}, checkpoint={"every": 10})
"""
LIMIT = 180.0


class Job:
    """Launchers of one run, each `mapsto train` with these options."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root, self.run, self.options = root, root / "run", options
        (root / "slow_recipe.py").write_text(RECIPE)
        self.launchers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        words = ["train", "slow_recipe.py", "--run", "run", *self.options]
        with open(self.root / f"said-{len(self.launchers)}.txt", "w") as said:
            self.launchers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "mapsto", *words],
                    cwd=self.root,
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            )

    def records(self, name: str) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.run / "metrics.jsonl").read_text().splitlines()
            return [record for line in lines if line.endswith("}") and (record := json.loads(line))["name"] == name]
        return []

    def comes_on(self, since: float, starts: int) -> tuple[float, float, int]:
        """Seconds until ranks began again and until their first step, and the step at which they did."""
        await_(lambda: len(self.records("start")) >= starts)
        began = self.records("start")[-1]
        await_(lambda: any(record["time"] > began["time"] for record in self.records("log")))
        first = next(record for record in self.records("log") if record["time"] > began["time"])
        return began["time"] - since, first["time"] - since, began["step"]

    def close(self) -> None:
        for launcher in self.launchers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait(20)


def await_(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {LIMIT:g} s")
        time.sleep(0.01)


def ranks(job: Job) -> dict[int, int]:
    """rank -> pid of the latest attempt, by what they were started with."""
    found: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            held = [os.readlink(link) for link in (path / "fd").iterdir() if link.name in ("2", "1")]
            for name in held:
                if name.startswith(str(job.run.resolve() / "logs" / "rank-")):
                    found[int(Path(name).stem.rpartition("-")[2])] = int(path.name)
    return found


@contextlib.contextmanager
def job_of(*options: str) -> Iterator[Job]:
    with tempfile.TemporaryDirectory() as root:
        job = Job(Path(root), *options)
        try:
            yield job
        finally:
            job.close()


def start_cost(launcher: str) -> tuple[str, float, float]:
    """(name, CPU seconds of all processes, wall seconds) of a run of two steps on 4 ranks."""
    with job_of() as job:
        words = ["train", "slow_recipe.py", "steps=2", "--run", "run", "--quiet"]
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "4",
            "--standalone",
            "-m",
            "--",
            "mapsto",
        ]
        ours = [sys.executable, "-m", "mapsto"]
        command = [*torchrun, *words] if launcher == "torchrun" else [*ours, *words, "--ranks", "4"]
        before, began = os.times(), time.monotonic()
        subprocess.run(command, cwd=job.root, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return f"two steps on 4 ranks, {launcher}", cpu, time.monotonic() - began


def killed_rank() -> list[tuple[str, float, float, int]]:
    with job_of("--ranks", "4") as job:
        job.start()
        await_(lambda: len(job.records("log")) > 25)
        began, step = time.time(), job.records("log")[-1]["step"]
        os.kill(ranks(job)[3], signal.SIGKILL)
        again, first, at = job.comes_on(began, 2)
        return [("rank 3 of 4 killed, one machine", again, first, max(0, step - at))]


def killed_node() -> list[tuple[str, float, float, int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = subprocess.Popen([sys.executable, "-m", "mapsto.launch.store", f"127.0.0.1:{port}"], stdout=subprocess.PIPE)
    try:
        assert store.stdout is not None
        store.stdout.readline()
        with job_of("--nodes", "1:3", "--ranks", "1", "--rendezvous", f"127.0.0.1:{port}") as job:
            for _ in range(3):
                job.start()
            await_(lambda: len(job.records("log")) > 25)
            began, step = time.time(), job.records("log")[-1]["step"]
            job.launchers[0].kill()
            again, first, at = job.comes_on(began, 2)
            found = [("node of 3 killed, going on with 2", again, first, max(0, step - at))]
            await_(lambda: len(job.records("log")) > job.records("start")[-1]["step"] + 15)
            began = time.time()
            job.start()
            again, first, at = job.comes_on(began, 3)
            await_(lambda: job.records("log"))
            return [*found, ("node comes back, going on with 3", again, first, 0)]
    finally:
        store.kill()
        store.communicate(timeout=20)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    starts = [start_cost(launcher) for _ in range(repeat) for launcher in ("mapsto train --ranks", "torchrun")]
    for name in dict.fromkeys(name for name, *_ in starts):
        cpus, walls = ([row[i] for row in starts if row[0] == name] for i in (1, 2))
        print(f"{name:44}{statistics.median(cpus):6.1f} CPU-s{statistics.median(walls):8.1f} s", flush=True)
    found: list[tuple[str, float, float, int]] = []
    for _ in range(repeat):
        for row in (*killed_rank(), *killed_node()):
            found.append(row)
            print(
                f"  {row[0]:36}{row[1]:6.1f} s{row[2]:6.1f} s{row[3]:4} steps redone   (load {os.getloadavg()[0]:.0f})",
                flush=True,
            )
    print(f"{'':36}{'started after':>16}{'first step after':>18}{'steps redone':>14}   (medians of {repeat}, and the range)")
    for name in dict.fromkeys(name for name, *_ in found):
        rows = [row[1:] for row in found if row[0] == name]
        cells = [[row[i] for row in rows] for i in range(3)]
        texts = [f"{statistics.median(c):.1f} ({min(c):.1f}-{max(c):.1f}) s" for c in cells[:2]]
        print(f"{name:36}{texts[0]:>16}  {texts[1]:>16}  {statistics.median(cells[2]):>10.0f}")


if __name__ == "__main__":
    main()
