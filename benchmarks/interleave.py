"""Interleaved timing: several training loops take turns in one process, so that what disturbs one disturbs all alike."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class Finished(BaseException):
    """Raised inside a loop to end it: whoever drives the loop lets it pass."""


class Gate:
    """The boundary between two steps of one loop. `step()` is called once at the entry of each step, in the loop's thread.

    The loop runs only while its round is on: `warm` steps that are not timed (they bring back its memory into the
    caches), then `steps` that are, from boundary to boundary; then it waits here.
    """

    def __init__(self, steps: int, warm: int) -> None:
        self.steps, self.warm = steps, warm
        self.left = 1
        self.timing = self.over = False
        self.turn, self.back = threading.Semaphore(0), threading.Semaphore(0)
        self.taken = (0.0, 0.0)
        self.count = 0

    def step(self) -> None:
        """One more step begins."""
        self.left -= 1
        if not self.left:
            self._boundary()

    def _boundary(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        if not self.timing and self.count:
            self.left, self.timing, self.taken = self.steps, True, (time.perf_counter(), time.process_time())
            return
        self.taken = (wall - self.taken[0], cpu - self.taken[1])
        self.timing = False
        self.count += 1
        self.back.release()
        self.turn.acquire()
        if self.over:
            raise Finished
        self.left = self.warm


@dataclass
class Arm:
    """A loop to be timed: `run(gate)` sets up and trains until its gate raises Finished. times: (wall, CPU) seconds a step."""

    name: str
    run: Callable[[Gate], None]
    gate: Gate
    times: list[tuple[float, float]] = field(default_factory=list)
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def start(self) -> None:
        """Set the loop up and run it to the entry of its first step. Raises what the loop raises."""
        self.thread = threading.Thread(target=self._target, name=self.name, daemon=True)
        self.thread.start()
        self._wait()

    def round(self) -> None:
        """Let the loop have its turn, and keep the time."""
        self.gate.turn.release()
        self._wait()
        self.times.append((self.gate.taken[0] / self.gate.steps, self.gate.taken[1] / self.gate.steps))

    def end(self) -> None:
        """End the loop and wait for its thread."""
        self.gate.over = True
        self.gate.turn.release()
        if self.thread is not None:
            self.thread.join()

    def _wait(self) -> None:
        self.gate.back.acquire()
        if self.error is not None:
            raise RuntimeError(f"the loop {self.name!r} ended early") from self.error

    def _target(self) -> None:
        try:
            self.run(self.gate)
        except Finished:
            return
        except BaseException as error:  # noqa: BLE001  # told in the main thread
            self.error = error
        else:
            self.error = RuntimeError("it returned")
        self.gate.back.release()


def interleave(arms: list[Arm], rounds: int) -> None:
    """Give every arm `rounds` turns, each time in another rotation of their order (the first round is thrown away)."""
    for arm in arms:
        arm.start()
    gc.collect()
    gc.freeze()  # what was set up is no garbage: without this each loop pays for the objects of all
    for number in range(rounds + 1):
        shift = number % len(arms)
        for arm in arms[shift:] + arms[:shift]:
            arm.round()
    for arm in arms:
        arm.times.pop(0)
        arm.end()


def ratios(arm: Arm, base: Arm, clock: int = 0) -> tuple[float, float, float]:
    """Quartiles (25 %, median, 75 %) of the ratios of an arm's times to the base's of the same round; clock 0: wall, 1: CPU."""
    pairs = [a[clock] / b[clock] for a, b in zip(arm.times, base.times, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4)
    return low, middle, high
