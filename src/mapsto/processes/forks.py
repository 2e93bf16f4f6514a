"""The asker's side of the fork server: starts processes, hears of their ends, and ends them."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

from ..core.errors import LaunchError
from .spawned import Spawned
from .system import end_tree, is_stopped, state_of

START_LIMIT = 180.0
"""Seconds in which the server must have imported what it is to import."""
LIMIT = 60.0
"""Seconds in which it must have forked or killed a process, or shown that it is there."""
STOPPED = 5.0
"""Seconds that the server may be stopped (SIGSTOP): a scheduler that suspends all of a job stops its asker too."""
PING = 5.0
"""Seconds between two questions whether it is there, while others of its processes are waited for."""
LOOK, GAP = 0.5, 5.0
"""Seconds between two looks at a server that is waited for; and after which a look begins anew, for the asker stood still."""


class ForkServer:
    """Starts processes on this machine. A context manager: leaving it kills all of them.

    preload: modules that it imports, and then, while forks may be made already, those that each of them names in `LATER`; a
    module that is missing is told by whoever needs it. threads: of each process.
    adopt: what a process started and left is ended with it, whichever session it made for itself. quiet: what the server
    itself says is kept for the error that tells of its end, and not shown. Safe to use from several threads.

    A server that stands still while something is awaited of it is ended, with all that it started, and a LaunchError says so.
    It ends with this process (on Linux with the thread that made it), however that ends.
    """

    def __init__(
        self,
        preload: Sequence[str],
        *,
        threads: int = 1,
        environment: Mapping[str, str] | None = None,
        adopt: bool = False,
        quiet: bool = False,
    ) -> None:
        self._preload, self._threads, self._environment = tuple(preload), threads, dict(environment or {})
        self._adopt, self._quiet = adopt, quiet
        self._lock = threading.Lock()
        self._open()

    def _open(self) -> None:
        self._ours, theirs = socket.socketpair()
        self._buffer = b""
        self._ready = self._warm = self.closed = False
        self._said = tempfile.TemporaryFile() if self._quiet else None  # noqa: SIM115  # closed by close()
        self.ended: dict[int, tuple[int, float]] = {}
        self._looked = self._pinged = time.monotonic()
        self._stopped: float | None = None
        self._unanswered = False
        self._why = ""
        asked = json.dumps({"path": sys.path, "preload": self._preload, "adopt": self._adopt})
        command = [sys.executable, *_flags(), "-c", "from mapsto.processes.server import main; main()"]
        package = str(Path(__file__).parents[2])
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(self._threads),
            **self._environment,
            "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        try:
            error = None if self._said is None else self._said.fileno()
            self._process = Spawned(
                [*command, str(theirs.fileno()), asked], environment, theirs.fileno(), error, quiet=self._quiet
            )
        finally:
            theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For a selector: readable where something is to be heard."""
        return self._ours.fileno()

    def is_alive(self) -> bool:
        """Whether it can fork. A process that was killed closes its socket before its end can be waited for."""
        return self.receive() and self._process.poll() is None

    def is_warm(self) -> bool:
        """Whether it has imported what it imports later, too; also where it has ended, and nothing is to be waited for."""
        with self._lock:
            try:
                self._begin()
            except LaunchError:  # told by whoever forks
                return True
            there = self._warm or self.is_alive()
            self.take()
            return self._warm or not there

    def revive(self) -> None:
        """Start another one where this one has died (the kernel may have killed it for its memory)."""
        if not self.is_alive():
            self.close()
            self._open()

    # -- processes -----------------------------------------------------------------------------------------------------
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
        with self._lock:
            self._begin()
            self._ask({"call": call, "arguments": list(arguments), "environment": dict(environment or {})}, pass_)
            return int(self._await("forked", LIMIT))

    def _begin(self) -> None:
        """Wait until it can fork. Raises LaunchError."""
        if not self._ready:
            self._await("ready", START_LIMIT)
            self._ready = True

    def wait(self, pid: int, seconds: float = LIMIT) -> int | None:
        """The exit code of a process (below 0: the signal that ended it); None where it runs on. Raises LaunchError."""
        with self._lock:
            return self._end_of(pid, seconds)

    def end(self, pid: int, patience: float = 0.0) -> int | None:
        """End a process and all that it started; its exit code where it ended by itself within `patience` seconds."""
        with self._lock, contextlib.suppress(LaunchError):  # a server that has ended took it along
            code = self._end_of(pid, patience)
            if code is None:
                self._ask({"kill": pid})
                self._end_of(pid, LIMIT)
            return code
        return None

    def _ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._ours, [json.dumps(request).encode() + b"\n"], list(descriptors))
        except OSError:
            raise LaunchError(self._gone()) from None

    def _end_of(self, pid: int, seconds: float) -> int | None:
        until = time.monotonic() + seconds
        while True:
            self.take()
            if pid in self.ended:
                return self.ended.pop(pid)[0]
            left = until - time.monotonic()
            if left <= 0:
                return None
            if not self.receive(min(left, LOOK)):
                raise LaunchError(self._gone())
            self.look()

    def _await(self, what: str, limit: float) -> Any:
        until = time.monotonic() + limit
        while True:
            for said in self.take():
                if what in said:
                    return said[what]
            left = until - time.monotonic()
            if left <= 0:
                self._give_up(f"it did not answer within {limit:g} s")
            if not self.receive(min(left, LOOK)):
                raise LaunchError(self._gone())
            self.look()

    def look(self) -> None:
        """Whether it stands still: to be asked again and again while something is awaited of it.

        Raises LaunchError where it has been stopped for STOPPED seconds, or has not answered for LIMIT seconds.
        """
        now = time.monotonic()
        if now - self._looked > GAP:  # nobody looked, or this process itself was stopped
            self._stopped, self._pinged, self._unanswered = None, now, False
        self._looked = now
        if not is_stopped(self._process.pid):
            self._stopped = None
        elif self._stopped is None:
            self._stopped = now
        elif now - self._stopped > STOPPED:
            self._give_up(f"it has been {state_of(self._process.pid)} for {STOPPED:g} s")
        if self._unanswered and now - self._pinged > LIMIT:
            self._give_up(f"it has not answered for {LIMIT:g} s")
        if self._ready and not self._unanswered and now - self._pinged > PING:
            self._pinged, self._unanswered = now, True
            self._ask({"ping": 1})

    def _give_up(self, why: str) -> NoReturn:
        pid = self._process.pid
        end_tree(pid)
        self._why = f"the process that starts others (the fork server, process {pid}) stands still: {why}; it was ended, with "
        self._why += "all that it had started"
        raise LaunchError(self._why)

    # -- what it tells -------------------------------------------------------------------------------------------------
    def receive(self, seconds: float = 0.0) -> bool:
        """Wait at most that long for what it tells, for `take`; False where the server itself has ended."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._ours, selectors.EVENT_READ)
                if not selector.select(max(0.0, seconds)):
                    return True
            chunk = self._ours.recv(1 << 16)
        except (OSError, ValueError):  # it was closed meanwhile
            chunk = b""
        self._buffer += chunk
        return bool(chunk)

    def take(self) -> list[dict[str, Any]]:
        """Note in `ended` (pid -> exit code, time) who has ended by what was heard; whatever else was heard."""
        *lines, self._buffer = self._buffer.split(b"\n")
        rest: list[dict[str, Any]] = []
        for line in lines:
            said = json.loads(line)
            if "ended" in said:
                self.ended[said["ended"]] = (said["code"], time.time())
            elif "pong" in said:
                self._unanswered = False
            elif "warm" in said:
                self._warm = True
            else:
                rest.append(said)
        return rest

    def _gone(self) -> str:
        if self.closed:
            return "it was stopped"
        if self._why:
            return self._why
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        return f"the process that starts others ended with exit code {self._process.returncode}{self._last_words()}"

    def _last_words(self) -> str:
        if self._said is None:
            return "; its words are above"
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def close(self) -> None:
        """End it, and all that it forked. Safe to call from any thread, and twice."""
        self.closed = True
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        if is_stopped(self._process.pid):
            end_tree(self._process.pid)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            end_tree(self._process.pid)
            self._process.wait()
        self._ours.close()
        if self._said is not None:
            self._said.close()


def _flags() -> list[str]:
    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]
