"""Signals: the first asks a run to stop after its step, the second ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

WARNING = getattr(signal, "SIGUSR1", None)


@contextlib.contextmanager
def interruptible(ask: Callable[[str], None]) -> Iterator[None]:
    """Within it, the first SIGINT or SIGTERM calls `ask` with its name; the second raises KeyboardInterrupt.

    SIGUSR1, by which a scheduler warns of its SIGTERM, asks too, and does not count as the first.

    Only the main thread can take signals: elsewhere this does nothing. Ignored signals stay ignored; what handled them
    before does so again afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked and number != WARNING:
            raise KeyboardInterrupt(f"a second {signal.Signals(number).name}")
        asked = asked or number != WARNING
        ask(signal.Signals(number).name)

    before: dict[int, Any] = {}
    try:
        for number in filter(None, (signal.SIGINT, signal.SIGTERM, WARNING)):
            held = signal.getsignal(number)
            if held is not None and held is not signal.SIG_IGN:  # None: a handler that is not Python's
                before[number] = signal.signal(number, handle)
        yield
    finally:
        for taken, held in before.items():
            signal.signal(taken, held)
