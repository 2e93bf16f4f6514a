"""Starting a command without waiting for its first moment: one that is stopped before it has begun holds up nobody.

`subprocess.Popen` waits until the command has begun, without a limit.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import warnings
from collections.abc import Mapping, Sequence

from .system import dies_with_parent, send

TICK = 0.01
"""Seconds between two looks at a process whose end is waited for."""


class Spawned:
    """A command in a session of its own, which ends with the thread that made it (Linux), however that ends.

    kept: a descriptor that it inherits under its number; error: its standard error, where it is not this process's; quiet: what
    it prints is dropped. It reads nothing. returncode: as that of `subprocess.Popen`; 127 where the command could not be begun.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], kept: int, error: int | None, *, quiet: bool
    ) -> None:
        self.returncode: int | None = None
        parent, nothing = os.getpid(), os.open(os.devnull, os.O_RDWR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of threads: the fork does nothing that could wait for one
                self.pid = os.fork()
            if self.pid == 0:
                _become(parent, command, environment, kept, (nothing, nothing if quiet else None, error))
        finally:
            os.close(nothing)

    def poll(self) -> int | None:
        """The exit code, below 0 for a signal; None while it runs."""
        if self.returncode is None:
            with contextlib.suppress(ChildProcessError):
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                if ended:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, seconds: float | None = None) -> int:
        """The exit code, when it has ended. Raises subprocess.TimeoutExpired."""
        until = time.monotonic() + (float("inf") if seconds is None else seconds)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), seconds or 0.0)
            time.sleep(TICK)
        return code

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            send(self.pid, 9)


def _become(
    parent: int, command: Sequence[str], environment: Mapping[str, str], kept: int, standard: tuple[int, int | None, int | None]
) -> None:
    """In the fork: what it inherits, and then the command. Nothing else of the parent's is run."""
    try:
        dies_with_parent(parent)
        os.setsid()
        for target, descriptor in enumerate(standard):
            if descriptor is not None:
                os.dup2(descriptor, target)
        os.set_inheritable(kept, True)
        os.closerange(3, kept)
        os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
        os.execve(command[0], list(command), dict(environment))  # noqa: S606  # our own module
    finally:
        os._exit(127)
