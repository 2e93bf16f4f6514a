"""A worker, or a group of rank workers, as a process that can be asked, heard within a time limit, and ended for certain."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

START_LIMIT = 120.0
"""Seconds in which a worker must have imported its frameworks and, in a group, met its peers."""
KEPT = 8192
"""Characters of a worker's output that are kept."""


class Dead(Exception):
    """A worker that did not answer: its time was up, or it ended."""


class Group:
    """One worker (`ranks` = 1) or a group of rank workers that judge a law together."""

    def __init__(self, ranks: int = 1) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mapsto-check-", ignore_cleanup_errors=True)
        self._workers: list[_Worker] = []
        try:
            for rank in range(ranks):
                self._workers.append(_Worker(rank, ranks, str(Path(self._folder.name) / "store")))
            self._hear(START_LIMIT, "start")
        except BaseException:
            self.end()
            raise

    def ask(self, request: dict[str, Any], limit: float) -> list[dict[str, Any]]:
        """The answer of each rank. Raises Dead where one does not come within `limit` seconds."""
        for worker in self._workers:
            worker.send(request)
        return self._hear(limit, "answer")

    def _hear(self, limit: float, what: str) -> list[dict[str, Any]]:
        until = time.monotonic() + limit
        return [
            w.hear(until, limit, what, who=f"rank {i}" if len(self._workers) > 1 else "it") for i, w in enumerate(self._workers)
        ]

    def output(self) -> str:
        """What the workers printed since they were last asked."""
        return "".join(w.taken() for w in self._workers)

    def end(self) -> None:
        """End the workers and every process they started."""
        for worker in self._workers:
            worker.end()
        self._folder.cleanup()


class _Worker:
    def __init__(self, rank: int, world: int, store: str) -> None:
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "mapsto.check.worker", f"--answers={writing}"]
        if world > 1:
            command += [f"--rank={rank}", f"--world={world}", f"--store={store}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        try:
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(writing,),
                start_new_session=True, env=environment,
            )  # fmt: skip
        finally:
            os.close(writing)
        self._reading, self._buffer = reading, b""
        self._printed: deque[str] = deque(maxlen=64)
        self._cut = 0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Keep the last of what is printed; a component that prints megabytes neither blocks nor fills memory."""
        stream = self._process.stdout
        assert stream is not None
        while chunk := os.read(stream.fileno(), 65536):
            self._cut += max(0, len(chunk) - KEPT)
            self._printed.append(chunk[-KEPT:].decode(errors="replace"))

    def send(self, request: dict[str, Any]) -> None:
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
        except BrokenPipeError:
            raise Dead(self._how_it_ended()) from None

    def hear(self, until: float, limit: float, what: str, who: str) -> dict[str, Any]:
        with selectors.DefaultSelector() as selector:
            selector.register(self._reading, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = until - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise Dead(f"{who} did not {what} within its time limit of {limit:.0f} s")
                chunk = os.read(self._reading, 1 << 20)
                if not chunk:
                    raise Dead(f"{who}: {self._how_it_ended()}")
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "the worker closed its answers"
        if code < 0:
            return f"the worker process was ended by {signal.Signals(-code).name}"
        return f"the worker process ended with exit code {code}"

    def taken(self) -> str:
        """What was printed since this was last asked, the last of it."""
        text = "".join(self._printed)[-KEPT:]
        self._printed.clear()
        return text

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(1)
        with contextlib.suppress(OSError):
            os.close(self._reading)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
