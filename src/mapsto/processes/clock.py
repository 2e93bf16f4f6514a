"""How long processes have worked and how long they have slept: a limit that a loaded machine does not shorten.

A wall clock goes on while a process waits for a processor that others have. Here two clocks count instead: seconds that a
process (with all that it started) computed, and seconds in which none of it computed or wanted to, as in a deadlock. One
that is ready and gets no processor spends neither.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from pathlib import Path

from .system import descendants

TICK = 0.25
"""Seconds between two looks."""
ASLEEP = 0.05
"""Below this share of a processor, with nothing ready to run, it sleeps: a loop that polls is a wait too."""
_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Clock:
    """Counts for processes from now on: `look()` at least every TICK, then read `computed` and `slept`.

    computed: processor seconds of the one that used the most, what it started included; slept: seconds in which all of them
    slept. Where the system does not tell (other than Linux), all wall seconds are counted as slept.
    """

    def __init__(self, pids: Collection[int]) -> None:
        self.computed = self.slept = 0.0
        self._pids = tuple(pids)
        self._began = {pid: computed_by(pid) for pid in self._pids}
        self._all, self._looked = sum(self._began.values()), time.monotonic()

    def look(self) -> None:
        """Read the processes' CPU time and the wall clock, and add what passed since the last look."""
        now, used = time.monotonic(), {pid: computed_by(pid) for pid in self._pids}
        passed, done = now - self._looked, sum(used.values()) - self._all
        if passed < TICK / 2:  # the system counts in hundredths of a second: too short a time tells nothing
            return
        if done < ASLEEP * passed and not any(map(wants_to_run, self._pids)):
            self.slept += passed
        self.computed = max(self.computed, *(used[pid] - self._began[pid] for pid in self._pids))
        self._all, self._looked = sum(used.values()), now


def computed_by(pid: int) -> float:
    """Processor seconds of a process and of all that it started; 0 where the system does not tell."""
    return sum(map(_ticks, [pid, *descendants(pid)])) / _PER_SECOND


def _ticks(pid: int) -> int:
    """User and system time, and that of children that have ended and were waited for, in ticks of the system."""
    with contextlib.suppress(OSError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15]))
    return 0


def wants_to_run(pid: int) -> bool:
    """Whether a thread of a process, or of what it started, computes or is ready to."""
    return any(_is_ready(task) for each in [pid, *descendants(pid)] for task in _tasks(each))


def _tasks(pid: int) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


def _is_ready(task: Path) -> bool:
    with contextlib.suppress(OSError, IndexError):
        return (task / "stat").read_text().rpartition(")")[2].split()[0] == "R"
    return False
