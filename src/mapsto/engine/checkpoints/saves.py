"""The checkpoints of a loop: at most one is being written at a time, while the run goes on where its plan says so."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import CheckpointError
from ...core.spec import CheckpointPlan
from ..folder import SPEC, RunFolder
from ..ranks import lead
from .background import Background
from .best import Best
from .checkpoint import Checkpoints

clock = time.perf_counter
Written = tuple[Path, float, float]
"""Where a checkpoint is, and the seconds `took` and `waited` of it."""


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
