"""Python text in a process that has run nobody's code: a fork of one that was kept as it was, or a new interpreter.

A process that will run code of others calls `keep()` before, and so has a twin of itself that knows only what was imported
until then. Forks of the twin begin in milliseconds, where a new interpreter would import a framework for seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .clock import TICK, Clock
from .system import descendants, dies_with_parent, send

MESSAGE = 1 << 20


class _Twin:
    """The twin, as the process that made it sees it."""

    def __init__(self) -> None:
        self.maker, self.known = os.getpid(), frozenset(sys.modules)
        self.socket, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                dies_with_parent(self.maker)
                _serve(_alone_with(theirs))
            os._exit(0)
        theirs.close()


_twin: _Twin | None = None


def keep() -> None:
    """Keep a twin of this process, as it is now, for `run`. It ends with this process (on Linux)."""
    global _twin
    _twin = _Twin()


def kept() -> set[int]:
    """The process that is kept here."""
    return {_twin.pid} if _twin is not None and _twin.maker == os.getpid() else set()


def run(
    code: str,
    words: Sequence[str] = (),
    *,
    folder: Path,
    environment: Mapping[str, str],
    seconds: float,
    without: Collection[str] = (),
) -> tuple[int, str]:
    """Run `python -c CODE WORDS` to its end: its exit code, and what it wrote to standard error.

    folder: where it runs; environment: its own, whose PYTHONPATH says where modules are; without: modules that must not have
    been imported there, with what is in them. Raises TimeoutError where it computes for `seconds`, or sleeps for so many.
    """
    twin = _twin if kept() else None
    if twin is not None and not any(m == w or m.startswith(f"{w}.") for w in without for m in twin.known):
        with contextlib.suppress(OSError):  # somebody closed what is asked through: a new interpreter does as well
            return _forked(twin, code, words, folder, environment, seconds)
    return _started(code, words, folder, environment, seconds)


def _started(code: str, words: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float) -> tuple[int, str]:
    command = [sys.executable, "-W", "ignore", "-c", code, *words]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603  # our own text
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        clock = Clock([process.pid])
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(TICK), _words(said)
            if _is_late(clock, seconds):
                _end(process.pid)
                process.wait()
                raise TimeoutError


def _forked(
    twin: _Twin, code: str, words: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float
) -> tuple[int, str]:
    request = json.dumps({"code": code, "words": list(words), "folder": str(folder), "environment": dict(environment)})
    with tempfile.TemporaryFile() as said, selectors.DefaultSelector() as selector:
        socket.send_fds(twin.socket, [request.encode() + b"\n"], [said.fileno()])
        selector.register(twin.socket, selectors.EVENT_READ)
        pid, late = _heard(twin), False
        clock = Clock([pid])
        while not selector.select(TICK):
            if not late and _is_late(clock, seconds):
                late = True
                _end(pid)
        ended = _heard(twin)
        if late:
            raise TimeoutError
        return ended, _words(said)


def _heard(twin: _Twin) -> int:
    line = b""
    while not line.endswith(b"\n"):
        chunk = twin.socket.recv(1)
        if not chunk:
            raise OSError("the process that was kept has ended")
        line += chunk
    return int(line)


def _is_late(clock: Clock, seconds: float) -> bool:
    clock.look()
    return max(clock.computed, clock.slept) > seconds


def _end(pid: int) -> None:
    for each in [*descendants(pid), pid]:
        send(each, signal.SIGKILL)


def _words(said: Any) -> str:
    said.seek(0)
    text: str = said.read().decode(errors="replace")
    return text


# -- in the twin ---------------------------------------------------------------------------------------------------------
def _alone_with(control: socket.socket) -> socket.socket:
    """Close every other descriptor: what waits for the end of its maker's must not wait for the twin's."""
    number = os.dup2(control.detach(), 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    return socket.socket(fileno=number)


def _serve(control: socket.socket) -> None:
    """Fork what is asked for, one after the other; its pid is told, and when it has ended its exit code."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE, 1)
        while message and not message.endswith(b"\n"):
            message += control.recv(MESSAGE) or b"\n"
        if not message.strip():
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _become(json.loads(message), descriptors[0])
        os.close(descriptors[0])
        control.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        control.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(request: dict[str, Any], said: int) -> NoReturn:
    """What `python -W ignore -c CODE WORDS` is, from that folder in that environment."""
    code = 1
    try:
        dies_with_parent()
        nothing = os.open(os.devnull, os.O_RDWR)
        for target, descriptor in ((0, nothing), (1, nothing), (2, said)):
            os.dup2(descriptor, target)
        sys.stdout, sys.stderr = (open(number, "w", errors="backslashreplace", closefd=False) for number in (1, 2))  # noqa: SIM115
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.path[:] = ["", *filter(None, request["environment"].get("PYTHONPATH", "").split(os.pathsep))]
        sys.argv = ["-c", *request["words"]]
        sys.excepthook = sys.__excepthook__
        warnings.simplefilter("ignore")
        exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102  # as -c does
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:  # noqa: BLE001  # told as an interpreter does
        sys.excepthook(type(error), error, error.__traceback__)
    with contextlib.suppress(BaseException):
        sys.stderr.flush()
    os._exit(code)
