"""What a training step on several ranks costs over the same step written by hand on torch's DDP and FSDP2.

    OMP_NUM_THREADS=1 python benchmarks/ranks.py --ranks 2 [--rounds 40] [--arms ddp,replicate,...]

A transformer over padded sequences of unequal length; every rank is a process with one thread, joined by gloo. The ranks
are the same for all loops, which take turns of some steps in them; between turns is a barrier. A step of a turn lasts as
long as on its slowest rank; CPU time is that of all ranks together. Reported: quartiles of the per-round ratios to the
hand-written loop of the same family, the payload that a rank of mapsto's loops handed to collectives, and how far the weights
ended from that loop's (which tells whether they did the same work). Peers that are not installed are skipped.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
import torch.distributed as dist
from interleave import Arm, Gate, interleave, ratios
from interleave_ranks import gather, join, on_ranks
from overhead import machine
from ranks_loops import Problem, loops
from ranks_peers import missing, peers
from torch import nn

BASES = ("ddp", "fsdp")
"""The hand-written loops; those after each in `known_loops` are compared with it."""
LIMIT = 3600.0
"""Seconds that the ranks have."""


class Together(Arm):
    """A loop on this rank, whose turns begin on all ranks at once."""

    control: Any

    def round(self) -> None:
        dist.barrier(group=self.control)
        super().round()


def rank(number: int, port: int, asked: argparse.Namespace, folder: str) -> None:
    """One rank: every loop in turn; the first prints."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}  # by which Lightning knows torchrun
    join(number, asked.ranks, port)
    sizes = ("records", "words", "width", "depth", "length")
    problem = Problem(Path(folder), batches=16, **{name: getattr(asked, name) for name in sizes})
    known = known_loops(asked.ranks)
    Together.control = dist.new_group()
    arms = [_arm(name, known[name][1], problem, asked.steps) for name in asked.arms]
    interleave(arms, asked.rounds)
    gather(arms)
    weights = {name: _whole(net) for name, net in problem.nets.items()}
    if number == 0:
        size = sum(p.numel() for p in problem.net().parameters())
        what = f"{asked.ranks} gloo ranks, {size / 1e6:.2f} M parameters, {asked.rounds} rounds of {asked.steps} steps"
        print(f"{machine()}; {what}")
        report(arms, {name: title for name, (title, _) in known.items()}, weights, problem.told)
    dist.barrier()
    os._exit(0)  # threads of peers may still wait for something


def known_loops(world: int) -> dict[str, tuple[str, Callable[..., Any]]]:
    """Name -> (what it is, loop), each family behind its hand-written loop."""
    own = loops(world)
    place = list(own).index("fsdp")
    return dict([*list(own.items())[:place], *peers().items(), *list(own.items())[place:]])


def _arm(name: str, loop: Callable[..., Any], problem: Problem, steps: int) -> Arm:
    def work(gate: Gate) -> None:
        torch.set_num_threads(1)
        loop(problem, name, gate)

    return Together(name, work, Gate(steps, warm=1))


def _whole(net: nn.Module) -> torch.Tensor:
    """All weights in one vector; all ranks must ask."""
    with torch.no_grad():
        full = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in net.parameters()]
        return torch.cat([p.reshape(-1) for p in full])


def report(arms: list[Arm], titles: dict[str, str], weights: dict[str, torch.Tensor], told: dict[str, list[Any]]) -> None:
    """A row a loop. told: the metrics of mapsto's steps, which say what was sent."""
    base = arms[0]
    print("\n| loop | ms/step | ratio | quartiles | CPU ratio | MB sent a step | weights differ by |\n" + "|---" * 7 + "|")
    for arm in arms:
        base = arm if arm.name in BASES else base
        low, middle, high = ratios(arm, base)
        milli = statistics.median(wall for wall, _ in arm.times) * 1e3
        far = (weights[arm.name] - weights[base.name]).norm() / weights[base.name].norm()
        row = (titles[arm.name], f"{milli:.1f}", f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
        sent = [metrics["bytes/step"] for metrics in told.get(arm.name, [])]
        more = (f"{ratios(arm, base, clock=1)[1]:.3f}", f"{sum(sent) / len(sent) / 1e6:.3f}" if sent else "", f"{far:.0e}")
        print("| " + " | ".join((*row, *more)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2, help="processes (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="turns a loop (default %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="timed steps a turn (default %(default)s)")
    for name, value in {"records": 8, "words": 1024, "width": 192, "depth": 4, "length": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="(default %(default)s)")
    parser.add_argument("--arms", help="some of the loops (default: all)")
    asked = parser.parse_args()
    known = known_loops(asked.ranks)
    names = asked.arms.split(",") if asked.arms else list(known)
    if unknown := set(names) - set(known):
        parser.error(f"there is no loop {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name in [n for n in names if missing(n)]:
        print(f"skipped: {name} ({missing(name)} is not installed)")
        names.remove(name)
    first = {name: next(n for n in list(known)[list(known).index(name) :: -1] if n in BASES) for name in names}
    asked.arms = [n for n in known if n in names or n in first.values()]
    with tempfile.TemporaryDirectory() as folder:
        on_ranks(asked.ranks, rank, asked, folder, limit=LIMIT)


if __name__ == "__main__":
    main()
