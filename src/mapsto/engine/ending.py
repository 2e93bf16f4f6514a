"""The end of a fit: what came of it, told to its observers, its folder and whoever asked for it."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..core.errors import MapstoError
from .loop import Loop, counted, whole
from .streams import preserve_rng

log = logging.getLogger("mapsto")


@dataclass(frozen=True)
class Result:
    """What came of a fit.

    reason: finished, stopped (asked for by an observer) or interrupted (by a signal), and why in words; steps taken in
    all; metrics: the latest value of each; best, last: checkpoints; go_on: how to continue where it was interrupted.
    """

    reason: Literal["finished", "stopped", "interrupted"]
    why: str
    steps: int
    epochs: float
    metrics: Mapping[str, float]
    folder: Path
    last: Path
    best: Path | None
    go_on: str
    detached: Mapping[str, str] = field(default_factory=dict)


def result_of(loop: Loop, reason: Any, why: str) -> Result:
    """What came of a fit that ended of itself, and how to go on with it."""
    path = loop.folder.path
    live = not loop.folder.environment().get("resumable_from_folder", True)
    more = "" if reason == "interrupted" else " epochs=..." if loop.spec.steps is None else " steps=..."
    return Result(
        reason=reason,
        why=why,
        steps=loop.step,
        epochs=loop.step / loop.per_epoch,
        metrics=dict(loop.latest),
        folder=path,
        last=loop.checkpoints.path(loop.step),
        best=loop.checkpoints.best(),
        go_on=f"Run(spec, {str(path)!r}).fit(resume=True)" if live else f"mapsto train --resume {path}{more}",
        detached=dict(loop.dispatch.detached),
    )


def ending(loop: Loop, result: Result, shown: str | None, reader: Callable[[str], Any]) -> dict[str, Any]:
    """The detail of the `end` event. shown: the data set whose panels the report shows; reader: gives one by its name."""
    detail: dict[str, Any] = {"reason": result.reason, "why": result.why, "last": str(result.last), "go_on": result.go_on}
    if result.best is not None:
        detail["best"] = str(result.best)
    if result.detached:
        detail["detached"] = dict(result.detached)
    if result.reason != "interrupted" and shown is not None:
        detail["panels"] = _panels(loop, shown, reader)
    if loop.survey is not None:
        if shown == "test" and "panels" in detail:
            with contextlib.suppress(Exception):  # whoever evaluates it is told why it cannot be read
                loop.survey.evaluated("test", whole(reader("test")), reader("train"))
        loop.survey.keep(end=True)
    return detail


def _panels(loop: Loop, name: str, reader: Callable[[str], Any]) -> list[dict[str, Any]]:
    """What the task shows in a report, written down; a task that fails at this spoils no run that is finished."""
    try:
        with preserve_rng(loop.wing), counted(whole(reader(name)), f"data.{name}") as batches:
            panels = loop.program.panels(batches)
        loop.folder.write_panels(panels)
    except Exception as error:
        log.warning("the report will show no panels of data.%s", name, exc_info=error)
        return []
    return panels


def failed(loop: Loop, error: BaseException) -> None:
    """Tell the observers and the folder; nothing that goes wrong here hides the error itself."""
    text = "".join(traceback.format_exception_only(error)).strip()
    reason = "failed" if isinstance(error, Exception) else "aborted"
    where = "".join(traceback.format_exception(error))
    if isinstance(error, Exception):
        loop.saves.wait()
    if loop.survey is not None:
        loop.survey.keep(end=True)
    newest = next(reversed(loop.checkpoints.paths()), None)
    with contextlib.suppress(MapstoError, OSError):
        loop.step = loop.program.position
        detail = {"reason": reason, "why": text, "traceback": where, "last": str(newest) if newest else None}
        loop.emit("end", detail=detail, failed=True)
