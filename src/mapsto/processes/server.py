"""The process that imports what others need once: each of them is a fork of it, made in milliseconds.

It reads JSON lines on a socket: `fork` (with the descriptors for standard output and error) gives a pid, `kill` ends one
with all that it started, `ping` shows that it is there; that one has ended is told by itself. What a preloaded module names
in `LATER` is imported while nothing is asked, and told as `warm`: forks begin before, and those made after have it too. No
user code is imported here, and nothing that starts a thread or a device context, so a fork is as good as a fresh process.
Where its socket closes it kills what it forked, so that nothing outlives who asked for it.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import io
import json
import os
import selectors
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

from .system import adopt_orphans, children, descendants, dies_with_parent, send

MESSAGE = 1 << 20
"""Bytes that are read at once."""


def main() -> None:
    """Import what is to be imported, say so, and serve until the socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    sys.argv = ["mapsto"]
    sys.path[:] = settings["path"]
    if settings["adopt"]:
        adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # the asker's to take, and to hand on once
        signal.signal(number, signal.SIG_IGN)
    gc.disable()  # what is imported stays: to look through it again and again is a sixth of the time
    for name in settings["preload"]:
        with contextlib.suppress(Exception):  # told by whoever needs it, in its own words
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is shared with the forks stays shared
    later = [name for module in settings["preload"] for name in getattr(sys.modules.get(module), "LATER", ())]
    server = _Server(control, adopt=settings["adopt"], later=later)
    server.send({"ready": os.getpid()})
    if not later:
        server.send({"warm": True})
    try:
        server.serve()
    finally:
        for pid in [*server.living]:
            server.kill(pid)


class _Server:
    def __init__(self, control: socket.socket, *, adopt: bool, later: list[str]) -> None:
        self.control, self.adopt, self.later = control, adopt, later
        self.living: set[int] = set()
        self.wakeup_read, self.wakeup_write = os.pipe()

    def serve(self) -> None:
        """Answer requests, and tell of ends, as they come."""
        for end in (self.wakeup_read, self.wakeup_write):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wakeup_write, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ)
            selector.register(self.wakeup_read, selectors.EVENT_READ)
            while True:
                ready = selector.select(0 if self.later else None)
                if not ready:
                    self.preload()
                for key, _ in ready:
                    if key.fileobj is self.wakeup_read:
                        with contextlib.suppress(BlockingIOError):
                            os.read(self.wakeup_read, 4096)
                        self.bury()
                    elif not self.answer():
                        return

    def preload(self) -> None:
        """Import the next of what is imported later; say so after the last."""
        with contextlib.suppress(Exception):  # told by whoever needs it, in its own words
            importlib.import_module(self.later.pop(0))
        if not self.later:
            gc.collect()
            gc.freeze()
            self.send({"warm": True})

    def answer(self) -> bool:
        """Carry out what is asked; whether anything was."""
        message, descriptors, _, _ = socket.recv_fds(self.control, MESSAGE, 8)
        while message and not message.endswith(b"\n"):
            more = self.control.recv(MESSAGE)
            message += more or b"\n"
        requests = [json.loads(line) for line in message.splitlines() if line.strip()]
        for request in requests:
            if "kill" in request:
                self.kill(request["kill"])
            elif "ping" in request:
                self.send({"pong": request["ping"]})
            else:  # one at a time, since its answer is waited for: the descriptors are its own
                self.fork(request, descriptors)
        return bool(requests)

    def fork(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Start what is asked for, and say its pid."""
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            dies_with_parent(server)
            signal.set_wakeup_fd(-1)
            os.close(self.wakeup_read)
            os.close(self.wakeup_write)
            self.control.close()
            become(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self.living.add(pid)
        self.send({"forked": pid})

    def kill(self, pid: int) -> None:
        """End one, where it lives, with all that it started."""
        if pid in self.living:
            for each in [*descendants(pid), pid]:
                send(each, signal.SIGKILL)
            send(pid, signal.SIGKILL, group=True)

    def bury(self) -> None:
        """Tell of every child that has ended; a code below 0 is a signal. What it started and left is ended too."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                send(pid, signal.SIGKILL, group=True)
                if pid in self.living:
                    self.living.discard(pid)
                    self.send({"ended": pid, "code": os.waitstatus_to_exitcode(status)})
        if self.adopt:
            for orphan in {*children(os.getpid())} - self.living:
                send(orphan, signal.SIGKILL)

    def send(self, data: dict[str, Any]) -> None:
        """Send a message to the process that asked, as one line of JSON."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then the asker has ended, and this ends next
            self.control.sendall(json.dumps(data).encode() + b"\n")


# -- in the fork ---------------------------------------------------------------------------------------------------------
def become(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """A session, descriptors, signals and an environment of its own, and then what was asked for."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        gc.enable()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        for target, descriptor in zip((1, 2), descriptors, strict=False):
            os.dup2(descriptor, target)
            os.close(descriptor)
        sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)
        os.environ.update(request["environment"])
        faulthandler.enable()  # a crash says where
        module, _, function = request["call"].partition(":")
        found = getattr(importlib.import_module(module), function)(*request["arguments"], *descriptors[2:])
        code = found if isinstance(found, int) else 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:  # noqa: BLE001  # told by the exit code and on its own stderr
        sys.excepthook(type(error), error, error.__traceback__)
    leave(code)


def _stream(descriptor: int, like: Any) -> Any:
    """A stream of text on a descriptor, as unbuffered as the server's own, which remembers of another file that it could
    seek there."""
    raw = open(descriptor, "wb", 0, closefd=False)  # noqa: SIM115  # open as long as the process lives
    return io.TextIOWrapper(raw, encoding=like.encoding, errors=like.errors, write_through=True)


def leave(code: int) -> NoReturn:
    """End as an interpreter does, except that nothing of the server's is run or freed."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # joins what is no daemon
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
