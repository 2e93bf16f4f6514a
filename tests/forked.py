"""Python as a process of its own, for tests: forked from one that has the framework imported, which takes seconds.

What is tested is what the process does and how it ends; a test of what a process imports starts a real one.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from mapsto.core.registry import registry
from mapsto.processes.forks import ForkServer
from mapsto.processes.system import send

PRELOAD = ("mapsto.torch.wing", "mapsto.engine.run", "mapsto.cli.train", "torch._dynamo")


class Forked:
    """As `subprocess.Popen(text=True)` of `python WORDS`, where WORDS are `-m MODULE ...`, `-c CODE ...` or `FILE ...`.

    The pipes of what it prints are read by `communicate`, or by a test from `stdout` and `stderr`.
    """

    def __init__(
        self, server: ForkServer, words: list[object], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.server, self.returncode = server, None
        (out, told), (err, warned) = os.pipe(), os.pipe()
        try:
            said = [[str(word) for word in words], str(cwd or os.getcwd()), {**os.environ, **(environment or {})}]
            self.pid = server.fork("tests.forked:become", said, pass_=[told, warned])
        finally:
            os.close(told)
            os.close(warned)
        self.stdout, self.stderr = (os.fdopen(end, errors="surrogateescape") for end in (out, err))

    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, where it has ended."""
        if self.returncode is None:
            self.returncode = self.server.wait(self.pid, 0.001)  # 0 would not listen
        return self.returncode

    def wait(self, timeout: float = 120.0) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self.returncode = self.server.wait(self.pid, timeout)
        if self.returncode is None:
            self.server.end(self.pid)
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        send(self.pid, number)

    def communicate(self, timeout: float = 120.0) -> tuple[str, str]:
        """All that it prints, and has its exit code in `returncode`."""
        from concurrent.futures import ThreadPoolExecutor

        with self.stdout, self.stderr, ThreadPoolExecutor(2) as threads:
            texts = [threads.submit(stream.read) for stream in (self.stdout, self.stderr)]
            self.wait(timeout)  # one that is ended closes its pipes
            return texts[0].result(), texts[1].result()


def run(
    server: ForkServer,
    *words: object,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Run Python with these words to its end."""
    made = Forked(server, [*words], cwd=cwd, environment=environment)
    out, err = made.communicate(timeout)
    assert made.returncode is not None
    return subprocess.CompletedProcess([*map(str, words)], made.returncode, out, err)


def become(words: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    """In the fork: what `python WORDS` does, from that folder in that environment."""
    registry._points = None  # what is installed is looked for anew, as the environment may say where
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv = words
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, folder)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
    sys.exit(0)
