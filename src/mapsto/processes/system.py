"""What the system tells of processes and does for them: who started whom, what one does and where, who is ended with whom."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

DEATH_SIGNAL, SUBREAPER = 1, 36
"""PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER of prctl(2)."""
_LIBC = ctypes.CDLL(None)  # loaded before there are forks that would need it
WORDS = {
    "T": "stopped by a signal (SIGSTOP)", "t": "stopped by a debugger", "R": "running", "S": "waiting",
    "D": "waiting for a device or a file system", "Z": "ended",
}  # fmt: skip
"""A state's letter, in words."""


def send(pid: int, number: int, *, group: bool = False) -> None:
    """A signal to a process (or to all of its group), where it still lives."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if group else os.kill)(pid, number)


def children(pid: int) -> list[int]:
    """The processes that a process started, those that have ended and were not waited for included."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """The processes below a process; empty where there is none."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def letter(pid: int) -> str:
    """The system's letter for the state of a process; nothing where there is no such process."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger has stopped a process."""
    return letter(pid) in ("T", "t")


def state_of(pid: int) -> str:
    """What a process is doing, in words: `stopped by a signal (SIGSTOP)`, `running`, `waiting`, ..."""
    return WORDS.get(letter(pid), "alive")


def command_of(pid: int) -> str:
    """The command of a process. One that has only just been started has none for a moment."""
    for _ in range(50):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            break
        if said := " ".join(words).strip():
            return said
        time.sleep(0.01)
    return str(pid)


def stack_of(pid: int, file: Path, seconds: float) -> str:
    """The stack that a process writes into `file` when asked by SIGUSR2; nothing where it does not within `seconds`."""
    before = file.stat().st_size if file.exists() else -1
    if before < 0:  # it does not listen, and the signal would end it
        return ""
    send(pid, signal.SIGUSR2)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)
        if file.stat().st_size > before:
            time.sleep(0.05)  # the rest of it
            return file.read_text(errors="replace")[before:].strip()
    return ""


def dies_with_parent(parent: int | None = None) -> None:
    """Be killed where the parent ends, however it ends, and although this process is stopped (Linux).

    parent: its pid, where it may have ended before it is asked for: then this process ends at once.
    """
    _control(DEATH_SIGNAL, int(signal.SIGKILL))
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of what children leave behind, so that it can be found and ended (Linux)."""
    _control(SUBREAPER, 1)


def _control(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        _LIBC.prctl(option, value, 0, 0, 0)


def end_tree(pid: int) -> None:
    """Kill a process and all that it started."""
    for each in [*descendants(pid), pid]:
        send(each, signal.SIGKILL)
