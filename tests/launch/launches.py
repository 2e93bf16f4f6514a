"""Supervisors for tests: over one fork server, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mapsto.core.errors import LaunchError
from mapsto.launch.local import Alone, LocalWorkers
from mapsto.launch.request import Request, Span
from mapsto.launch.supervisor import Supervisor
from mapsto.processes.forks import ForkServer
from mapsto.processes.system import letter

LIMIT = 60.0


@dataclass
class Told:
    """What came of a launch: its exit code, or the error that ended it, and what was said."""

    folder: Path
    code: int | None = None
    error: str = ""
    said: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def seen(self, rank: int = 0) -> list[dict[str, Any]]:
        """What a fake rank saw, one entry an attempt."""
        file = self.folder / f"seen-{rank}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def events(self, *names: str) -> list[dict[str, Any]]:
        """What the launcher noted."""
        lines = (self.folder / "logs" / "launch.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if not names or event["event"] in names]

    def text(self) -> str:
        """All that was said."""
        return "\n".join([*self.said, self.error])


def launch(
    server: ForkServer,
    folder: Path,
    *deeds: str,
    ranks: str = "2",
    call: str = "tests.launch.fake_ranks:main",
    words: Callable[[Path, int], list[str]] | None = None,
    meanwhile: Callable[[Supervisor], None] | None = None,
    **options: Any,
) -> Told:
    """Supervise these ranks to their end; `meanwhile` runs beside it and may ask it to stop."""
    told, began = Told(folder), time.monotonic()
    regrow = options.pop("regrow", 60.0)
    supervisor = Supervisor(
        request=Request(Span.parse(ranks, "--ranks"), **options),
        workers=LocalWorkers(server, call),
        membership=Alone(),
        words=words or (lambda folder, attempt: [str(folder), *deeds]),
        folder=folder,
        say=told.said.append,
        regrow=regrow,
    )

    def run() -> None:
        try:
            told.code = supervisor.run()
        except LaunchError as error:
            told.error = str(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        if meanwhile is not None:
            meanwhile(supervisor)
        thread.join(LIMIT)
        assert not thread.is_alive(), (told.said, told.error)
    finally:
        supervisor.signals += [signal.SIGINT, signal.SIGINT]
        thread.join(30)
        supervisor.close()
    told.seconds = time.monotonic() - began
    return told


def await_(condition: Callable[[], Any], limit: float = LIMIT) -> Any:
    """What the condition gives, once it gives something."""
    until = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < until, f"not within {limit:g} s"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def command(*words: object, folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`mapsto ...` in a session of its own, killed at the end with all that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mapsto", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it forked dies with it
        process.communicate(timeout=30)


def is_alive(pid: int) -> bool:
    """Whether a process lives and is no zombie."""
    return letter(pid) not in ("", "Z")
