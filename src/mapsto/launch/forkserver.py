"""The process that imports the framework once: every rank is a fork of it, made in milliseconds, also when it starts again.

It reads JSON lines on a socket: `fork` (with the descriptors for standard output and error) gives a pid; that a process it
forked has ended is told by itself. No user code is imported here, and nothing that starts a thread or a device context, so
a fork is as good as a fresh process. Where its socket closes it kills what it forked, so that nothing outlives a launcher.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from typing import Any, NoReturn

DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
MESSAGE = 1 << 20
"""Bytes that a request may have."""


def main() -> None:
    """Import what is to be imported, say so, and serve until the socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    asked = json.loads(sys.argv[2])
    sys.argv = ["mapsto"]
    sys.path[:] = asked["path"]
    dies_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # the launcher's to take, and to hand on once
        signal.signal(number, signal.SIG_IGN)
    failed = None
    for name in asked["preload"]:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001  # told by whoever needs it, in its own words
            failed = traceback.format_exc()
    gc.collect()
    gc.freeze()  # what is shared with the forks stays shared
    say(control, {"ready": os.getpid(), "threads": threading.active_count(), "failed": failed})
    living: set[int] = set()
    try:
        serve(control, living)
    finally:
        for pid in living:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


def serve(control: socket.socket, living: set[int]) -> None:
    """Answer requests, and tell of ends, as they come."""
    heard, told = os.pipe()
    for end in (heard, told):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(heard, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is heard:
                    with contextlib.suppress(BlockingIOError):
                        os.read(heard, 4096)
                    bury(control, living)
                elif not answer(control, living, (heard, told)):
                    return


def bury(control: socket.socket, living: set[int]) -> None:
    """Tell of every child that has ended; a code below 0 is a signal."""
    while living:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        living.discard(pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # what it started and left
        say(control, {"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def answer(control: socket.socket, living: set[int], ours: tuple[int, int]) -> bool:
    """Carry out one request; whether there was one."""
    message, descriptors, _, _ = socket.recv_fds(control, MESSAGE, 4)
    while message and not message.endswith(b"\n"):
        more = control.recv(MESSAGE)
        message += more or b"\n"
    if not message.strip():
        return False
    request = json.loads(message)
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        for end in ours:
            os.close(end)
        control.close()
        become(request, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    living.add(pid)
    say(control, {"forked": pid})
    return True


def become(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """In the fork: a session, descriptors, signals and an environment of its own, and then what was asked for."""
    code = 1
    try:
        os.setsid()
        dies_with_parent()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        for target, descriptor in zip((1, 2), descriptors, strict=False):
            os.dup2(descriptor, target)
            os.close(descriptor)
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


def leave(code: int) -> NoReturn:
    """End as an interpreter does, except that nothing of the server's is run or freed."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # joins what is no daemon
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def dies_with_parent() -> None:
    """Be killed where the parent ends, however it ends (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)


def say(control: socket.socket, data: dict[str, Any]) -> None:
    """One JSON line."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then the launcher has ended, and this ends next
        control.sendall(json.dumps(data).encode() + b"\n")


if __name__ == "__main__":
    main()
