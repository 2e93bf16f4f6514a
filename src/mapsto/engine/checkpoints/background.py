"""Work in a thread of its own, while the run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """A function carried out in a thread; `result` waits for what it returns, or raises what it raised.

    told: called in that thread when it is done. The thread does not hold up the end of the process.
    """

    def __init__(self, work: Callable[[], T], told: Callable[[], None]) -> None:
        self._work, self._told = work, told
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, name="mapsto-checkpoint", daemon=True).start()

    def _run(self) -> None:
        try:
            self._value.append(self._work())
        except BaseException as error:  # noqa: BLE001  # raised again by whoever asks for the result
            self._error = error
        self._done.set()
        self._told()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def result(self) -> T:
        """Wait, and raise what was raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value[0]
