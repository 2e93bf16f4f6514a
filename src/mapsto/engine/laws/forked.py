"""Ranks for laws: processes that are forked from the one that checks, and meet as a launcher's would."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = 60.0
"""Seconds that a group of ranks has."""


def forked(world: int, act: Callable[[int], Any], *, limit: float = LIMIT) -> list[tuple[int, Any]]:
    """(wait status, answer) by rank of `act(rank)` in forked processes, which find the variables of a launcher.

    The answer of one that raised is its error as text. Whoever does not end in time is killed.
    """
    with tempfile.TemporaryDirectory(prefix="mapsto-ranks-") as folder:
        port = _free_port()
        running = {_start(rank, world, port, act, Path(folder)): rank for rank in range(world)}
        ended = _wait(running, limit)
        return [(ended[rank], _answer(Path(folder) / str(rank))) for rank in range(world)]


def _start(rank: int, world: int, port: int, act: Callable[[int], Any], folder: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # threads that a fork leaves behind take no part
        pid = os.fork()
    if pid:
        return pid
    try:
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in told.items()})
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            found, code = act(rank), 0
        except BaseException:  # noqa: BLE001  # the parent is told
            found, code = traceback.format_exc(), 2
        (folder / str(rank)).write_bytes(pickle.dumps(found))
        os._exit(code)
    finally:
        os._exit(1)


def _wait(running: dict[int, int], limit: float) -> dict[int, int]:
    """Wait statuses by rank."""
    until, ended = time.monotonic() + limit, {}
    waiting = dict(running)
    while waiting:
        for pid, rank in list(waiting.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ended[rank] = status
                del waiting[pid]
        if waiting and time.monotonic() > until:
            for pid in waiting:
                os.kill(pid, signal.SIGKILL)
            until += limit
        time.sleep(0.005)
    return ended


def _answer(file: Path) -> Any:
    return pickle.loads(file.read_bytes()) if file.exists() else None  # written by our own child


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
