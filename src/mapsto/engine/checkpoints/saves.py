"""The checkpoints of a loop: which are the best so far, and at most one that is being written while the run goes on."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from ...core.errors import CheckpointError, SpecError, nearest
from ...core.spec import CheckpointPlan
from ..folder import SPEC, RunFolder
from ..ranks import lead
from .checkpoint import Checkpoints

T = TypeVar("T")
clock = time.perf_counter
Written = tuple[Path, float, float]
"""Where a checkpoint is, and the seconds `took` and `waited` of it."""


@dataclass
class Best:
    """The steps of the `count` best values of `metric`, best first; where values are equal the earlier stays ahead."""

    count: int
    metric: str
    mode: Literal["min", "max"]
    entries: list[dict[str, Any]] = field(default_factory=list)

    def rank(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take an evaluation in. Raises SpecError where it has no such metric; not-a-number is never among the best."""
        if self.count == 0:
            return
        if self.metric not in metrics:
            raise SpecError(f"checkpoint.metric: an evaluation gives no {self.metric!r}; {nearest(self.metric, metrics)}")
        value = float(metrics[self.metric])
        if math.isnan(value) or step in self.steps():
            return
        sign = 1.0 if self.mode == "min" else -1.0
        ranked = sorted([*self.entries, {"step": step, "value": value}], key=lambda e: (sign * e["value"], e["step"]))
        self.entries = ranked[: self.count]

    def is_new(self, step: int) -> bool:
        """Whether this step is among the best."""
        return step in self.steps()

    def steps(self) -> list[int]:
        return [entry["step"] for entry in self.entries]

    def state(self) -> dict[str, Any]:
        """As a checkpoint and its manifest hold it."""
        return {"metric": self.metric, "mode": self.mode, "entries": list(self.entries)}

    def restore(self, state: Mapping[str, Any], exists: Callable[[int], bool]) -> list[str]:
        """Put a state back; sentences on what of it cannot be the best any more."""
        if (state["metric"], state["mode"]) != (self.metric, self.mode):
            return [f"the best is counted afresh: it was the {state['mode']} of {state['metric']}"] if state["entries"] else []
        self.entries = [e for e in state["entries"] if exists(e["step"])][: self.count]
        gone = [e for e in state["entries"] if not exists(e["step"])]
        return [f"the best checkpoint of step {e['step']} ({self.metric} {e['value']:.6g}) is gone" for e in gone]


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is complete. stood: seconds that the run waited for it; took: from its begin to its name; waited: of
    these, those in which its writer waited for the disk and computed nothing."""

    step: int
    path: Path
    best: bool
    stood: float
    took: float
    waited: float


class Saves:
    """Begins checkpoints and finishes them. told: called, in any thread, when one that is written meanwhile is done."""

    def __init__(self, checkpoints: Checkpoints, folder: RunFolder, plan: CheckpointPlan, told: Callable[[], None]) -> None:
        self.checkpoints, self.folder, self.plan, self._told = checkpoints, folder, plan, told
        self._open: tuple[Callable[[], Written], int, bool, float] | None = None
        self._thread: Background[Written] | None = None

    def begin(self, step: int, tree: Mapping[str, Any], about: Mapping[str, Any], best: Best, *, since: float) -> None:
        """Copy the state, and write it in the background or when it is finished. The one before must be finished.

        since: when (`clock()`) the state began to be gathered.
        """
        writing = self.checkpoints.begin(step, tree, about, keep=self.plan.asynchronous)
        kept = tuple(best.steps())  # as this checkpoint knows them: of a later one it is not known yet whether it will be whole

        def work() -> Written:
            began, computed = clock(), time.thread_time()
            lead(writing.ranks, lambda: self._there(step))
            path = writing()
            lead(writing.ranks, lambda: self._tidy(kept))
            waited = clock() - began - (time.thread_time() - computed)
            return path, clock() - since, max(waited, 0.0)

        if self.plan.asynchronous:
            self._thread = Background(work, self._told)
            self._open = (self._thread.result, step, best.is_new(step), clock() - since)
        else:
            self._open = (work, step, best.is_new(step), clock() - since)

    def _there(self, step: int) -> None:
        """A checkpoint in a folder that was removed would come back without what it is a checkpoint of."""
        if not (self.folder.path / SPEC).is_file():
            raise CheckpointError(
                f"the run folder {self.folder.path} was removed or moved while the run goes on, so the checkpoint of "
                f"step {step} cannot be written, and what was trained since the last one is lost"
            )

    def _tidy(self, best: tuple[int, ...]) -> None:
        self.folder.sync()
        self.checkpoints.prune(self.plan.keep, best)

    @property
    def ready(self) -> bool:
        """Whether one that was written in the background waits to be finished."""
        return self._thread is not None and self._thread.done

    def finish(self) -> Saved | None:
        """Wait until the open one is complete; None where none is open. Raises CheckpointError, on all ranks."""
        if self._open is None:
            return None
        began = clock()
        result, step, best, stood = self._open
        self._open = self._thread = None
        path, took, waited = result()
        return Saved(step, path, best, stood + clock() - began, took, waited)

    def wait(self) -> None:
        """Let one that is being written in the background come to its end, whatever that is: the run ends by an error."""
        thread, self._open, self._thread = self._thread, None, None
        if thread is not None:
            with contextlib.suppress(Exception):
                thread.result()


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
        """Wait for the end of the work and return what it returned, or raise what it raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value[0]
