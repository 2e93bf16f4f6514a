"""What a checkpoint costs: seconds that training stands, written while it waits or while it goes on.

One process, two replicated ranks (DDP) and two sharded ones (FSDP2) on this machine. In each round the same ranks save once
while they wait and once in the background, and take the same number of steps behind it, in changing order.

    OMP_NUM_THREADS=1 python benchmarks/checkpoints.py [--rounds 7] [--width 1448] [--steps 20]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from interleave_ranks import join, on_ranks

CASES: dict[str, tuple[int, Any]] = {
    "one process": (1, None),
    "2 ranks, replicate (DDP)": (2, {"replicate": 2}),
    "2 ranks, shard (FSDP2)": (2, {"shard": 2}),
}
RECORDS, BATCH = 4096, 128
clock = time.perf_counter


def net(width: int) -> Any:
    from torch import nn

    return nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(4)], nn.Linear(width, 10))


def measure(name: str, folder: Path, rounds: int, width: int, steps: int) -> list[dict[str, Any]]:
    """On each rank: seconds of each round by way of saving."""
    import torch

    from mapsto import Spec, use
    from mapsto.core.spec import CheckpointPlan
    from mapsto.engine.checkpoints.checkpoint import Checkpoints
    from mapsto.engine.checkpoints.saves import Best, Saves
    from mapsto.engine.folder import Onlooker, RunFolder
    from mapsto.engine.run import Run

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    data = {"input": rng.normal(size=(RECORDS, width)).astype("float32"), "target": rng.integers(0, 10, RECORDS)}
    spec = Spec(
        model=use(net, width=width),
        data={"train": {"source": data, "batch_size": BATCH}},
        optimizer=use("adamw", lr=1e-4),
        mesh=CASES[name][1],
        device="cpu",
        steps=10**6,
    )
    run = Run(spec, folder / "run")
    program, kept = run.program, RunFolder(folder) if run.ranks.leader else Onlooker(folder)
    store = Checkpoints(folder / "checkpoints", run.wing, run.ranks)
    none = Best(0, "valid/loss", "min")
    ways = {a: Saves(store, kept, CheckpointPlan(keep=1, asynchronous=a), lambda: None) for a in (False, True)}
    found: list[dict[str, Any]] = []
    number = 0
    with run.reader("train").stream(0, 10**6, **program.reader_args) as stream:
        batches = iter(stream)

        def step() -> None:
            program.step(next(batches)[1])

        for _ in range(5):
            step()
        for turn in range(rounds + 1):
            for asynchronous in (False, True) if turn % 2 else (True, False):
                run.ranks.barrier()
                saves, number, began = ways[asynchronous], number + 1, clock()
                saves.begin(number, {"program": program.state_tree()}, {"best": none.state()}, none, since=began)
                if not asynchronous:
                    done = saves.finish()
                stood = clock() - began
                for _ in range(steps):
                    step()
                wrote = not asynchronous or saves.ready
                waits = clock()
                if asynchronous:
                    done = saves.finish()
                assert done is not None
                late, whole = clock() - waits, clock() - began
                if turn:  # the first one finds out
                    found.append(
                        {
                            "aside": asynchronous,
                            "stood": stood,
                            "late": late,
                            "whole": whole,
                            "took": done.took,
                            "in time": wrote,
                        }
                    )
            run.ranks.barrier()
            began = clock()
            for _ in range(steps):
                step()
            if turn:
                found.append({"aside": None, "whole": clock() - began})
    size = sum(f.stat().st_size for f in (folder / "checkpoints").glob("*/*"))
    return [{**one, "size": size} for one in found]


def rank(number: int, port: int, name: str, folder: str, asked: argparse.Namespace) -> None:
    """One rank of a case; the first prints its row."""
    world = CASES[name][0]
    if world > 1:
        join(number, world, port)
    found = measure(name, Path(folder), asked.rounds, asked.width, asked.steps)
    if number == 0:
        print(row(name, found, asked.steps), flush=True)


def row(name: str, found: list[dict[str, Any]], steps: int) -> str:
    """A line of the table."""
    waits, aside = ([f for f in found if f["aside"] is way] for way in (False, True))
    bare = statistics.median(f["whole"] for f in found if f["aside"] is None)
    mid = lambda rows, key: statistics.median(r[key] for r in rows)  # noqa: E731
    ratios = sorted((a["stood"] + a["late"]) / w["stood"] for w, a in zip(waits, aside, strict=True))
    quartiles = statistics.quantiles(ratios, n=4)
    return (
        f"| {name} | {found[0]['size'] / 1e6:.0f} | {1000 * bare / steps:.0f} | {1000 * mid(waits, 'stood'):.0f} | "
        f"{1000 * (mid(aside, 'stood') + mid(aside, 'late')):.0f} | {statistics.median(ratios):.2f} ({quartiles[0]:.2f} to "
        f"{quartiles[2]:.2f}) | {1000 * mid(aside, 'took'):.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=1448)
    parser.add_argument("--steps", type=int, default=20, help="steps behind each save")
    parser.add_argument("--folder", default=None, help="on which file system (default: the temporary folder)")
    asked = parser.parse_args()
    heads = ["ranks", "MB", "ms a step", "stands, waiting (ms)", "stands, aside (ms)", "ratio (quartiles)"]
    heads += ["aside written in (ms)"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for name, (world, _) in CASES.items():
        with tempfile.TemporaryDirectory(prefix="mapsto-bench-", dir=asked.folder) as folder:
            on_ranks(world, rank, name, folder, asked, limit=1800.0)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
