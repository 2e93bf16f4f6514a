from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

HANGS = 60.0
"""Seconds of this process's own time after which something is said to wait for ever: a busy machine does not count."""


@pytest.fixture
def bounded() -> object:
    """`with bounded(what):` fails where what is within it does not come to an end, or waits without computing."""

    @contextlib.contextmanager
    def within(what: object) -> Iterator[None]:
        def late(*_: object) -> None:
            raise AssertionError(f"{what} does not end")

        before = [(number, signal.signal(number, late)) for number in (signal.SIGPROF, signal.SIGALRM)]
        signal.setitimer(signal.ITIMER_PROF, HANGS)
        signal.alarm(600)  # such as a pipe that nobody writes to
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            for number, handler in before:
                signal.signal(number, handler)

    return within
