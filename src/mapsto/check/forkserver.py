"""The process that imports the frameworks and the laws once: every worker is a fork of it, made in milliseconds.

It reads JSON lines on a socket: `fork` (with the descriptors for requests, answers and output) gives a pid, `end` ends a
worker with all that it started and gives its exit code. Where its socket closes, it ends every worker and itself, so that
nothing outlives a checker that was killed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from ..core.errors import MapstoError
from ..core.laws import all_laws
from . import worker
from .wings import law_wings

SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2): what a worker's children leave behind becomes the worker's own child."""


def main() -> None:
    """Import, say so, and serve until the socket closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--memory", type=int, default=0, help="bytes that a worker may allocate; 0: no limit")
    options = parser.parse_args()
    control = socket.socket(fileno=options.socket)
    adopt_orphans()
    law_wings()
    with contextlib.suppress(MapstoError):  # told to whoever asks for the laws
        all_laws()
    say(control, {"ready": os.getpid()})
    living: set[int] = set()
    try:
        serve(control, options.memory, living)
    finally:
        for pid in list(living):
            end(pid, living)


def serve(control: socket.socket, memory: int, living: set[int]) -> None:
    """Answer one request after another."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 65536, 3)
        if not message:
            return
        request = json.loads(message)
        if request["do"] == "fork":
            pid = os.fork()
            if pid == 0:
                control.close()
                become_worker(*descriptors, request=request, memory=memory)
            for descriptor in descriptors:
                os.close(descriptor)
            living.add(pid)
            say(control, {"pid": pid})
        else:
            say(control, {"code": end(request["pid"], living, request["patience"])})


def become_worker(requests: int, answers: int, output: int, *, request: dict[str, Any], memory: int) -> NoReturn:
    """In the fork: a session, a standard output and limits of its own; never returns to the server's code."""
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a component that reads standard input gets nothing
        os.close(output)
        adopt_orphans()
        faulthandler.enable()  # a crash says where
        faulthandler.register(signal.SIGUSR1, all_threads=False)  # and a hang where it hangs, when asked
        if memory:
            limit_memory(memory)
        worker.serve(requests, answers, request["rank"], request["world"], request["store"])
    except BaseException as error:  # noqa: BLE001  # told by the exit code and on the worker's own stderr
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)
    os._exit(0)


def limit_memory(size: int) -> None:
    """Let this process allocate `size` bytes more than it has; beyond that an allocation fails, and says so."""
    import resource

    held = 0
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        held = 1024 * int(next(line for line in lines if line.startswith("VmData:")).split()[1])
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (held + size, hard))


def end(pid: int, living: set[int], patience: float = 0.0) -> int | None:
    """End a worker and all it started; its exit code (minus a signal) where it ended by itself within `patience` seconds."""
    until = time.monotonic() + patience
    code: int | None = None
    while code is None and time.monotonic() < until:  # one that is ending by itself may say how
        code = reap(pid)
        time.sleep(0.005)
    told = code
    for each in [*descendants(pid), *([] if code is not None else [pid])]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    until = time.monotonic() + 5.0
    while code is None and time.monotonic() < until:
        code = reap(pid)
        time.sleep(0.002)
    living.discard(pid)
    reap_orphans(living)
    return told


def reap(pid: int) -> int | None:
    """The exit code of a child that has ended, or None."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if found else None


def reap_orphans(living: set[int]) -> None:
    """Bury what ended workers had started and this process adopted; they are zombies by now."""
    for pid in set(worker.children(zombies=True)) - living:
        with contextlib.suppress(ChildProcessError, OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                os.waitpid(pid, os.WNOHANG)


def descendants(pid: int) -> list[int]:
    """The processes below a process, by /proc; empty where there is none."""
    found: list[int] = []
    for child in worker.children(pid, zombies=True):
        found += [child, *descendants(child)]
    return found


def adopt_orphans() -> None:
    """Become the parent of what children leave behind, so that it can be found and ended (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def say(control: socket.socket, data: dict[str, Any]) -> None:
    """One JSON line."""
    sys.stdout.flush()
    control.sendall(json.dumps(data).encode() + b"\n")


if __name__ == "__main__":
    main()
