"""Ranks for tests: forked from a server that has torch imported, joined by gloo, with a limit on their lives.

    found = on_ranks(4, function, argument)     # function(argument) on each rank; its results by rank

What a function raises on some rank is raised here with that rank's traceback. Functions are those of a module (they are
pickled); whatever happens, no process is left.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

LIMIT = 120.0
GOODBYE = 5.0
"""Seconds that ranks which have all answered have to end by themselves."""
PRELOAD = [
    "numpy",
    "torch",
    "torch.distributed",
    "mapsto.engine.run",
    "mapsto.torch.wing",
    "mapsto.torch.mesh.ranks",
    "mapsto.torch.sharded_files",
    "torch._dynamo",
]


class RankFailed(AssertionError):
    """A rank raised, died or was too slow."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _live(pipe: Connection, environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    gc.freeze()  # what the server imported stays
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    try:
        answer: tuple[bool, Any] = (True, function(*arguments))
    except BaseException as error:
        answer = (False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    pipe.send(answer)
    if answer[0]:
        pipe.poll(LIMIT)  # until all have answered: the first rank keeps the store, which others may still ask
    os._exit(0)  # a group that is taken apart while others still talk writes to the terminal


def on_ranks(world: int, function: Callable[..., Any], *arguments: Any, limit: float = LIMIT) -> list[Any]:
    """The results of `function(*arguments)` on each of `world` ranks, which find the torchrun variables set."""
    context, port, until = _context(), free_port(), time.monotonic() + limit
    pipes, processes = [], []
    for rank in range(world):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        mine, theirs = context.Pipe()
        process = context.Process(target=_live, args=(theirs, environment, function, arguments), daemon=True)
        process.start()
        theirs.close()
        pipes.append(mine)
        processes.append(process)
    found: list[Any] = [None] * world
    failed: list[str] = []
    waiting = dict(zip(pipes, range(world), strict=True))
    try:
        while waiting:
            ready = wait(list(waiting), timeout=max(until - time.monotonic(), 0))
            if failed and not ready:
                break
            if not ready:
                raise RankFailed(f"ranks {sorted(waiting.values())} of {world} did not end in {limit:g} s")
            for pipe in ready:
                rank = waiting.pop(pipe)  # type: ignore[index]
                try:
                    good, value = pipe.recv()  # type: ignore[union-attr]
                except EOFError:
                    raise RankFailed(f"rank {rank} of {world} died") from None
                if not good:
                    failed.append(f"rank {rank} of {world}: {value}")
                    until = min(until, time.monotonic() + 2)  # what the others have to say, too: they may only have lost it
                found[rank] = value
        if failed:
            raise RankFailed("\n".join(failed))
        return found
    finally:
        for pipe in pipes:
            pipe.close()  # by which a rank that has answered ends
        for process in processes:
            process.join(0 if failed or waiting else GOODBYE)
            process.kill()
            process.join()
