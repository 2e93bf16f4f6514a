"""Stalls: a process that finishes no step for a while writes down where each of its threads stands.

The stacks are written by a timer of the interpreter in C (`faulthandler.dump_traceback_later`), so that they come also
from a process that hangs in a collective, a kernel or a system call and holds the interpreter's lock. What is left of a
run that was killed says, without them, which step it had reached.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import socket
import time
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType

from ..core import durable
from ..core.errors import CheckpointError
from .reading import read_bytes, shaped
from .shapes import Beat

STALLS = Path("logs") / "stalls"
"""Where the files of the ranks stand within the run folder, `rank-N.txt`; those of a run that ended are removed."""
LIMIT = 60.0
"""Seconds without a finished step before the stacks are written; doubled each time that the run went on after all."""
EVERY = 10.0
"""Seconds between two signs of life at least: setting the timer costs a system call and a thread."""

clock = time.perf_counter


class StallWatch:
    """Watches one process of a run: `beat` says that it lives; the stacks are written where none comes for `limit` seconds."""

    def __init__(self, folder: Path, rank: int = 0, limit: float | None = None) -> None:
        self.path = folder / STALLS / f"rank-{rank}.txt"
        self.rank, self.limit = rank, LIMIT if limit is None else limit
        self.due = float("inf")
        """The time (of `clock`) from which on a beat is worth its cost."""
        self._file: FileIO | None = None
        self._size = 0

    def __enter__(self) -> StallWatch:
        with contextlib.suppress(OSError):  # a folder that cannot be written to is told of by what must be written there
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = durable.fresh(self.path)  # held for the run
        self.beat(0)
        return self

    def beat(self, step: int) -> None:
        """A sign of life at a step; costs about half a millisecond."""
        file = self._file
        if file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        if self._size and os.fstat(file.fileno()).st_size > self._size:
            self.limit *= 2
        about = {"rank": self.rank, "host": socket.gethostname(), "pid": os.getpid(), "step": step}
        head = json.dumps({**about, "time": time.time(), "limit": self.limit}).encode() + b"\n"
        with contextlib.suppress(OSError):
            file.seek(0)
            file.truncate()
            file.write(head)
            self._size = len(head)
            faulthandler.dump_traceback_later(self.limit, file=file)
        self.due = clock() + EVERY

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The run has an end, which is told elsewhere; stacks that were written before a failure are kept beside it."""
        file, self._file = self._file, None
        if file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        stood = os.fstat(file.fileno()).st_size > self._size > 0
        file.close()
        if error is None or not stood:
            with contextlib.suppress(OSError):
                self.path.unlink()
                self.path.parent.rmdir()
                self.path.parent.parent.rmdir()


@dataclass(frozen=True)
class Stall:
    """What a rank left that did not end: its last sign of life (time in seconds since 1970) and, where it stood still, the
    stacks of its threads, most recent call first."""

    file: Path
    rank: int
    host: str
    pid: int
    step: int
    time: float
    limit: float
    stacks: str


def read_stalls(folder: Path) -> list[Stall]:
    """What the ranks of a run folder left, by rank."""
    found = []
    for file in (folder / STALLS).glob("rank-*.txt"):
        try:
            head, _, stacks = read_bytes(file).partition(b"\n")
            beat = shaped(head, Beat)
        except (OSError, ValueError, CheckpointError):  # killed while it was written
            continue
        told = {name: beat[name] for name in Beat.__annotations__}
        found.append(Stall(file=file, stacks=stacks.decode("utf-8", "replace").strip(), **told))
    return sorted(found, key=lambda stall: stall.rank)
