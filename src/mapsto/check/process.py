"""The checker's side of its workers: processes that can be asked, heard in time, and ended for certain."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import selectors
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from ..core.errors import LaunchError
from ..processes.clock import TICK, Clock
from ..processes.forks import ForkServer
from ..processes.system import send

START_LIMIT = 120.0
"""Seconds of computing, or of sleeping, in which a group of ranks must have met."""
GRACE = 5.0
"""Seconds that the other ranks have to answer once one has failed: they may wait for it for ever."""
PATIENCE = 2.0
"""Seconds that a worker has to print where it is, and one that ends to end."""
GOODBYE = 1.0
"""Seconds that a worker which is asked for nothing has to end by itself."""
KEPT = 16384
"""Characters of a worker's output that are kept."""
ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no compile workers, which would look like processes left behind
    "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",
}


class Dead(Exception):
    """A worker that did not answer: its time was up, or it ended."""


class Server(ForkServer):
    """The process that the workers are forks of. A context manager: leaving it ends every worker, whatever it is doing.

    memory: bytes that each of them may allocate; 0: no limit.
    """

    def __init__(self, *, memory: int = 0) -> None:
        super().__init__(["mapsto.check.preloaded"], environment=ENVIRONMENT, adopt=True, quiet=True)
        self.memory = memory


class Group:
    """One worker (`ranks` = 1) or a group of rank workers that judge a law together."""

    def __init__(self, server: Server, ranks: int = 1) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mapsto-check-", ignore_cleanup_errors=True)
        self._workers: list[_Worker] = []
        try:
            for rank in range(ranks):
                self._workers.append(_Worker(server, rank, ranks, str(Path(self._folder.name) / "store")))
            self._receive(START_LIMIT, "start")
        except BaseException:
            self.end()
            raise

    def ask(self, request: dict[str, Any], limit: float) -> list[dict[str, Any]]:
        """The answer of each rank, or of those that answered where one of them failed.

        Raises Dead where one does not come within `limit` seconds of computing, or before all have slept for so many, and
        tells where that one hangs.
        """
        for worker in self._workers:
            worker.send(request)
        return self._receive(limit, "answer")

    def _receive(self, limit: float, what: str) -> list[dict[str, Any]]:
        clock, until = Clock([w.pid for w in self._workers]), float("inf")
        received: dict[int, dict[str, Any]] = {}
        with selectors.DefaultSelector() as selector:
            for rank, worker in enumerate(self._workers):
                selector.register(worker.answers, selectors.EVENT_READ, rank)
            while len(received) < len(self._workers):
                for key, _ in selector.select(max(0.0, min(TICK, until - time.monotonic()))):
                    made = self._workers[key.data].receive(self._who(key.data))
                    if made is not None:
                        received[key.data] = made
                        selector.unregister(key.fileobj)
                        if _is_bad(made):
                            until = min(until, time.monotonic() + GRACE)
                clock.look()
                late = max(clock.computed, clock.slept) > limit
                if time.monotonic() > until or (late and until < float("inf")):
                    break  # what one rank found is told, whatever the others wait for
                if late and len(received) < len(self._workers):
                    spent = "within {:.3g} s of computing" if clock.computed > limit else "in {:.3g} s of sleeping or waiting"
                    self._late(received, f"did not {what} {spent.format(limit)}")
        return [received[rank] for rank in sorted(received)]

    def _late(self, received: dict[int, dict[str, Any]], how: str) -> NoReturn:
        late = [rank for rank in range(len(self._workers)) if rank not in received]
        places = {rank: self._workers[rank].place() for rank in late}
        said = "; ".join(f"{self._who(r)} {how}" + (f" (it was {places[r]})" if places[r] else "") for r in late)
        done = f"; {', '.join(self._who(r) for r in sorted(received))} did" if received else ""
        raise Dead(said + done)

    def _who(self, rank: int) -> str:
        return f"rank {rank}" if len(self._workers) > 1 else "it"

    def output(self) -> str:
        """What the workers printed since they were last asked."""
        return "".join(w.taken() for w in self._workers)

    def end(self) -> None:
        """End the workers and every process they started."""
        for worker in self._workers:
            worker.end()
        self._folder.cleanup()


def _is_bad(received: dict[str, Any]) -> bool:
    return received.get("verdict", {}).get("status") in ("fail", "unknown")


class _Worker:
    def __init__(self, server: Server, rank: int, world: int, store: str) -> None:
        self._server = server
        (asked, self._requests), (self.answers, told), (self._heard, printed) = os.pipe(), os.pipe(), os.pipe()
        try:
            words = [rank, world, store, server.memory]
            self.pid = server.fork("mapsto.check.worker:main", words, pass_=[printed, printed, asked, told])
        except BaseException as error:
            self._close()
            if isinstance(error, LaunchError):
                raise Dead(str(error)) from None
            raise
        finally:
            for descriptor in (asked, told, printed):
                os.close(descriptor)
        self._buffer = b""
        self._busy = True  # until it says that it has started
        self._ended: str | None = None
        self._printed, self._lock = "", threading.Lock()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Keep the last of what is printed; a component that prints megabytes neither blocks nor fills memory."""
        with contextlib.suppress(OSError):
            while _is_readable(self._heard, None):
                with self._lock:  # what is no longer in the pipe stands in `_printed`
                    chunk = os.read(self._heard, 65536)
                    self._printed = (self._printed + chunk.decode(errors="replace"))[-KEPT:]
                if not chunk:
                    return

    def send(self, request: dict[str, Any]) -> None:
        data = json.dumps(request).encode() + b"\n"
        self._busy = True
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            raise Dead(f"it {self._how_it_ended()}") from None

    def receive(self, who: str) -> dict[str, Any] | None:
        """The answer, where all of it has come. Raises Dead where the worker has ended."""
        chunk = os.read(self.answers, 1 << 20)
        if not chunk:
            raise Dead(f"{who} {self._how_it_ended()}")
        self._buffer += chunk
        if b"\n" not in self._buffer:
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        self._busy = False
        received: dict[str, Any] = json.loads(line)
        return received

    def place(self) -> str:
        """Where the worker is now, by the stack that it prints when it is sent SIGUSR1."""
        before = self.taken()
        send(self.pid, signal.SIGUSR1)
        until, found = time.monotonic() + PATIENCE, ""
        while time.monotonic() < until and not (FIRST in found and found == self._printed):
            found = self._printed
            time.sleep(0.1)
        with self._lock:
            self._printed = before  # the stack itself is no output of the component
        return place_in(found)

    def _how_it_ended(self) -> str:
        if self._ended is None:
            code = self._server.end(self.pid, patience=PATIENCE)
            self._listener.join(1)
            at = place_in(self._printed)
            where = f" ({at})" if at else ""
            if code is None:
                self._ended = "closed its answers"
            elif code < 0:
                self._ended = f"ended the worker process by {signal.Signals(-code).name}{where}"
            else:
                self._ended = f"ended the worker process with exit code {code}{where}"
        return self._ended

    def taken(self) -> str:
        """What was printed since this was last asked, the last of it."""
        until = time.monotonic() + PATIENCE
        while self._listener.is_alive() and _is_readable(self._heard, 0.0) and time.monotonic() < until:
            time.sleep(0.001)  # what was printed before an answer was heard belongs to it
        with self._lock:
            text, self._printed = self._printed, ""
        return text

    def end(self) -> None:
        if self._ended is None:
            os.close(self._requests)  # nothing more is asked: one that is not busy ends by that
            self._requests = -1
            self._server.end(self.pid, patience=0.0 if self._busy else GOODBYE)
            self._ended = "was ended"
        self._listener.join(1)
        self._close()

    def _close(self) -> None:
        for descriptor in (self._requests, self.answers, self._heard):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _is_readable(descriptor: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else 1000 * seconds))


FIRST = "(most recent call first)"
FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


def place_in(text: str) -> str:
    """`file.py:12 in forward`: the innermost frame of a printed stack that is neither the library's nor the checker's."""
    stack = text.rpartition(FIRST)[2]
    frames = [m.groups() for m in FRAME.finditer(stack)] if FIRST in text else []
    ours = str(Path(__file__).parents[1])
    library = ("site-packages", "dist-packages", f"lib/python{sys.version_info.major}.", "<frozen")
    checker = (f"{ours}/check", f"{ours}/core")
    own = next((f for f in frames if not f[0].startswith(ours) and not any(part in f[0] for part in library)), None)
    law = next((f for f in frames if f[0].startswith(ours) and not f[0].startswith(checker)), None)
    own = own or law or (frames[0] if frames else None)
    return f"at {own[0]}:{own[1]} in {own[2]}" if own else ""
