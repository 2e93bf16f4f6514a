"""The launcher's side of the fork server: processes of this machine that can be started, heard and ended for certain."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import LaunchError

START_LIMIT = 180.0
"""Seconds in which the server must have imported the framework."""
FORK_LIMIT = 20.0
"""Seconds in which it must have forked a process."""


class ForkServer:
    """Starts processes on this machine. A context manager: leaving it kills all of them.

    preload: modules that it imports; a module that is missing is told by whoever needs it. threads: of each process.
    """

    def __init__(self, preload: Sequence[str], *, threads: int, environment: Mapping[str, str] | None = None) -> None:
        self._preload, self._threads, self._environment = tuple(preload), threads, dict(environment or {})
        self._open()

    def _open(self) -> None:
        self._ours, theirs = socket.socketpair()
        self._buffer = b""
        self._ready = False
        self.ended: dict[int, tuple[int, float]] = {}
        asked = json.dumps({"path": sys.path, "preload": self._preload})
        command = [sys.executable, *_flags(), "-c", "from mapsto.launch.forkserver import main; main()"]
        package = str(Path(__file__).parents[2])
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(self._threads),
            **self._environment,
            "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        try:
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                [*command, str(theirs.fileno()), asked], stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),),
                start_new_session=True, env=environment,
            )  # fmt: skip
        finally:
            theirs.close()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For a selector: readable where something is to be heard."""
        return self._ours.fileno()

    def is_alive(self) -> bool:
        """Whether it can fork. A process that was killed closes its socket before its end can be waited for."""
        return self.hear() and self._process.poll() is None

    def revive(self) -> None:
        """Start another one where this one has died (the kernel may have killed it for its memory)."""
        if not self.is_alive():
            self.close()
            self._open()

    def fork(
        self,
        call: str,
        arguments: Sequence[Any] = (),
        *,
        environment: Mapping[str, str] | None = None,
        pass_: Sequence[int] = (),
    ) -> int:
        """Start `module:function` with these arguments in a process of its own; its pid.

        pass_: descriptors for its standard output and error, and more that become its last arguments. Raises LaunchError.
        """
        if not self._ready:
            self._await("ready", START_LIMIT)
            self._ready = True
        request = {"call": call, "arguments": list(arguments), "environment": dict(environment or {})}
        try:
            socket.send_fds(self._ours, [json.dumps(request).encode() + b"\n"], list(pass_))
        except OSError:
            raise LaunchError(self._gone()) from None
        return int(self._await("forked", FORK_LIMIT))

    def hear(self, seconds: float = 0.0) -> bool:
        """Take what was told of ended processes into `ended`; False where the server itself has ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_READ)
            if not selector.select(max(0.0, seconds)):
                return True
        try:
            chunk = self._ours.recv(1 << 16)
        except OSError:
            chunk = b""
        if not chunk:
            return False
        self._buffer += chunk
        return True

    def take(self) -> list[dict[str, Any]]:
        """What was heard and is no end."""
        *lines, self._buffer = self._buffer.split(b"\n")
        rest: list[dict[str, Any]] = []
        for line in lines:
            said = json.loads(line)
            if "ended" in said:
                self.ended[said["ended"]] = (said["code"], time.time())
            else:
                rest.append(said)
        return rest

    def _await(self, what: str, limit: float) -> Any:
        until = time.monotonic() + limit
        while True:
            for said in self.take():
                if what in said:
                    return said[what]
            left = until - time.monotonic()
            if left <= 0:
                raise LaunchError(f"the process that starts ranks did not answer within {limit:g} s")
            if not self.hear(left):
                raise LaunchError(self._gone())

    def _gone(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        return f"the process that starts ranks ended with exit code {self._process.returncode}; its words are above"

    def close(self) -> None:
        """End it, and all that it forked."""
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._ours.close()


def send(pid: int, number: int, *, group: bool = False) -> None:
    """A signal to a process (or to all that it started and is in its session), where it still lives."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if group else os.kill)(pid, number)


def state_of(pid: int) -> str:
    """What the system says of a process, in words: `stopped`, `running`, `waiting`, ..."""
    words = {
        "T": "stopped by a signal (SIGSTOP)", "t": "stopped by a debugger", "R": "running", "S": "waiting",
        "D": "waiting for a device or a file system", "Z": "ended",
    }  # fmt: skip
    with contextlib.suppress(OSError, IndexError):
        return words.get(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0], "alive")
    return "alive"


def stack_of(pid: int, file: Path, seconds: float) -> str:
    """The stack that a rank writes into `file` when asked by SIGUSR2; nothing where it does not within `seconds`."""
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


def _flags() -> list[str]:
    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]
