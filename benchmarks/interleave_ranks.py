"""Interleaved timing on several gloo ranks: processes that join one group, take the same turns, and tell their times."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from interleave import Arm


def on_ranks(world: int, rank: Callable[..., None], *arguments: Any, limit: float) -> None:
    """`rank(number, port, *arguments)` in `world` forked processes, which are ended after `limit` seconds at the latest."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]  # the first rank listens there
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the ranks are ended too
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=rank, args=(i, port, *arguments), daemon=True) for i in range(world)]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join(limit)
    finally:
        for process in started:
            process.kill()


def join(number: int, world: int, port: int) -> None:
    """Take this process's place among the ranks, as torchrun would give it."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(world), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")


def gather(arms: list[Arm]) -> None:
    """Times of all ranks in each arm: the wall time of the slowest, the CPU time of all together."""
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, {arm.name: arm.times for arm in arms})
    for arm in arms:
        each = [times[arm.name] for times in told]
        arm.times = [(max(wall for wall, _ in one), sum(cpu for _, cpu in one)) for one in zip(*each, strict=True)]
