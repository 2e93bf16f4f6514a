"""What strict mode costs over fast mode, and what its exchange costs beside other exact ones.

    OMP_NUM_THREADS=1 python benchmarks/strict.py --ranks 2 [--rounds 20] [--width 128] [--depth 2]
    OMP_NUM_THREADS=1 python benchmarks/strict.py --ranks 2 --exchange

Every rank is a process with one thread, joined by gloo. The ranks are the same for all programs, which take turns of some
steps; between turns is a barrier. A step of a turn lasts as long as on its slowest rank; CPU time is that of all ranks.
Fast mode comes twice: with one micro-shard a rank, as it is by default, and with as many as strict mode has, whose ratio is
the price of the order of summation alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
import torch
import torch.distributed as dist
from interleave import Arm, Gate, interleave, ratios
from interleave_ranks import gather, join, on_ranks
from overhead import machine
from ranks_loops import Net
from torch import Tensor

from mapsto import use
from mapsto.data.reader import Batches
from mapsto.torch import build_program
from mapsto.torch.mesh.strict.exchange import Exchange
from mapsto.torch.mesh.strict.tree import block, cover

LIMIT = 3000.0
"""Seconds that the ranks have."""
MODES = {
    "fast, one micro-shard a rank": {"strict": False, "own": True},
    "fast": {"strict": False},
    "the same once more (the noise)": {"strict": False},
    "strict": {"strict": True},
}


class Together(Arm):
    """Turns that begin on all ranks at once."""

    def round(self) -> None:
        dist.barrier()
        super().round()


def texts(asked: argparse.Namespace) -> Batches:
    """Token ids of which the tails count for nothing, so that micro-shards weigh differently."""
    rng = np.random.default_rng(0)
    shape = (asked.records * 16, asked.length)
    target = rng.integers(0, asked.words, shape)
    target[np.arange(asked.length)[None, :] >= rng.integers(asked.length // 2, asked.length + 1, shape[0])[:, None]] = -100
    return Batches({"input": rng.integers(0, asked.words, shape), "target": target}, asked.records, shuffle=True)


def train(asked: argparse.Namespace, mesh: dict[str, int], mode: dict[str, Any], gate: Gate) -> None:
    """Steps of the optimizer with clipping, until the gate ends them."""
    torch.set_num_threads(1)
    program = build_program(
        use(Net, words=asked.words, width=asked.width, depth=asked.depth),
        "language_model",
        use("adamw", lr=1e-3),
        middleware=[use("clip_norm", max_norm=1.0)],
        device="cpu",
        mesh=use("ranks", **mesh),
        micro_shards=None if mode.get("own") else asked.micro_shards,
        strict=mode["strict"],
    )
    with texts(asked).stream(0, None, **program.reader_args) as stream:
        for _, batch in stream:
            gate.step()
            program.step(batch)


def arms_of(asked: argparse.Namespace) -> list[Arm]:
    """Of each mesh its modes; one process has one mesh."""
    meshes = [{"replicate": asked.ranks}, {"shard": asked.ranks}] if asked.ranks > 1 else [{"replicate": 1}]
    return [
        Together(f"{next(iter(mesh))}: {name}", partial(train, asked, mesh, mode), Gate(asked.steps, warm=1))
        for mesh in meshes
        for name, mode in MODES.items()
    ]


def report(arms: list[Arm]) -> None:
    print("\n| mesh: mode | ms/step | ratio to fast | quartiles | CPU ratio |\n|---|---|---|---|---|")
    for arm in arms:
        base = next(a for a in arms if a.name == f"{arm.name.split(':')[0]}: fast")
        low, middle, high = ratios(arm, base)
        milli = statistics.median(wall for wall, _ in arm.times) * 1e3
        cells = (arm.name, f"{milli:.1f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{ratios(arm, base, clock=1)[1]:.2f}")
        print("| " + " | ".join(cells) + " |", flush=True)


# -- the exchange alone ----------------------------------------------------------------------------------------------------
def exchanges(world: int, micro_shards: int, size: int) -> dict[str, Callable[[], Any]]:
    """Ways to sum a vector over ranks: native, by the tree, and two that are exact in any order."""
    x = torch.randn(size, generator=torch.Generator().manual_seed(dist.get_rank()))
    exchange = Exchange(dist.group.WORLD, micro_shards)
    sent = torch.zeros(exchange.own, exchange.padded(size))
    sent[:, :size] = x
    columns = exchange.padded(size)
    rooms = {"received": torch.empty(sum(len(c) for c in exchange.covers) * columns // world), "whole": torch.empty(columns)}

    def native() -> Tensor:
        kept = x.clone()
        dist.all_reduce(kept)
        return kept

    def fixed_point() -> Tensor:
        whole = (x.double() * 2**40).round().long()
        dist.all_reduce(whole)
        return (whole.double() / 2**40).float()

    def gathered() -> Tensor:
        every = [torch.empty_like(x) for _ in range(world)]
        dist.all_gather(every, x)
        total = every[0]
        for other in every[1:]:
            total = total + other
        return total

    return {
        "all-reduce (native order)": native,
        "the tree (all-to-all, all-gather)": lambda: exchange(sent, lambda name, n: rooms[name][:n]),
        "64-bit fixed point, all-reduce": fixed_point,
        "all-gather, summed everywhere": gathered,
    }


def time_exchanges(asked: argparse.Namespace) -> None:
    leader = dist.get_rank() == 0
    held = [
        len(cover(asked.micro_shards, (b := block(asked.micro_shards, r, asked.ranks)).start, b.stop))
        for r in range(asked.ranks)
    ]
    if leader:
        print(f"partial sums by rank: {held}\n\n| MB | exchange | ms | ratio | quartiles |\n|---|---|---|---|---|")
    for megabytes in (1, 4, 16, 64):
        ways = exchanges(asked.ranks, asked.micro_shards, megabytes * 2**18)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(asked.rounds + 1):
            for name, way in ways.items():
                dist.barrier()
                began = time.perf_counter()
                way()
                dist.barrier()
                if number:
                    times[name].append(time.perf_counter() - began)
        for name in ways:
            each = [a / b for a, b in zip(times[name], times["all-reduce (native order)"], strict=True)]
            low, middle, high = statistics.quantiles(each, n=4)
            if leader:
                milli = statistics.median(times[name]) * 1e3
                print(f"| {megabytes} | {name} | {milli:.1f} | {middle:.2f} | {low:.2f} to {high:.2f} |", flush=True)


# -- ranks -----------------------------------------------------------------------------------------------------------------
def rank(number: int, port: int, asked: argparse.Namespace) -> None:
    """One rank: every program in turn; the first prints."""
    join(number, asked.ranks, port)
    if number == 0:
        said = f"{asked.ranks} gloo ranks, {asked.micro_shards} micro-shards, {asked.rounds} rounds"
        size = sum(p.numel() for p in Net(asked.words, asked.width, asked.depth).parameters())
        print(f"{machine()}; {said}" + ("" if asked.exchange else f" of {asked.steps} steps, {size / 1e6:.2f} M parameters"))
    if asked.exchange:
        time_exchanges(asked)
    else:
        arms = arms_of(asked)
        interleave(arms, asked.rounds)
        gather(arms)
        if number == 0:
            report(arms)
    dist.barrier()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exchange", action="store_true", help="time the exchange of gradients alone")
    defaults = {"ranks": 2, "rounds": 20, "steps": 3, "micro_shards": 8, "records": 32, "length": 64, "words": 1024}
    for name, value in {**defaults, "width": 128, "depth": 2}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help="(default %(default)s)")
    asked = parser.parse_args()
    on_ranks(asked.ranks, rank, asked, limit=LIMIT)


if __name__ == "__main__":
    main()
