"""What a run folder tells: its events as series, its checkpoints, its state, all read without a framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError
from .checkpoints.checkpoint import checkpoint_paths, step_of
from .checkpoints.manifest import read_manifest
from .folder import METRICS, RunFolder

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class RunRecord:
    """One run as its folder tells it. `spec` is plain data, `events` the lines of metrics.jsonl in their order, whose
    metrics are floats (NaN for what is no number)."""

    folder: Path
    spec_text: str
    spec: Mapping[str, Any]
    environment: Mapping[str, Any]
    events: list[dict[str, Any]]
    panels: list[dict[str, Any]]
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    survey: Mapping[str, Any] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    """What could not be read and was left out, a sentence each that begins with the file (and line)."""

    @property
    def name(self) -> str:
        return str(self.spec.get("name", "run"))

    @property
    def summary(self) -> Mapping[str, Any]:
        found = self.environment.get("summary")
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def series(self) -> dict[str, Points]:
        """(step, value) by metric name; where a step tells a metric twice the later value counts."""
        found: dict[str, dict[int, float]] = {}
        for event in self.events:
            if event.get("name") == "end":  # repeats the latest of each
                continue
            for name, value in event.get("metrics", {}).items():
                found.setdefault(name, {})[event["step"]] = value
        return {name: sorted(points.items()) for name, points in found.items()}

    @cached_property
    def last_end(self) -> Mapping[str, Any] | None:
        """The `end` event of the latest session; None where it did not tell its end."""
        for event in reversed(self.events):
            if event.get("name") in ("start", "end"):
                return event if event["name"] == "end" else None
        return None

    @property
    def status(self) -> str:
        """`finished`, `stopped`, `interrupted`, `failed`, `aborted`, or `unfinished` where no end was told."""
        return str((self.last_end.get("detail") or {}).get("reason", "finished")) if self.last_end else "unfinished"

    @property
    def why(self) -> str:
        if self.last_end is None:
            return "it is still running, or was killed"
        return str((self.last_end.get("detail") or {}).get("why", ""))

    @property
    def steps(self) -> int:
        return max((e["step"] for e in self.events), default=0)

    @property
    def epochs(self) -> float:
        return max((as_float(e.get("epoch", 0.0)) for e in self.events), default=0.0)

    @property
    def seconds(self) -> float:
        """Time spent in all sessions, from the first event of each to its last."""
        total, began, latest = 0.0, None, None
        for event in self.events:
            if "time" not in event or (event.get("detail") or {}).get("asked"):  # an evaluation that was asked for afterwards
                continue
            if event.get("name") == "start" or began is None:
                total += latest - began if began is not None and latest is not None else 0.0
                began = event["time"]
            latest = event["time"]
        return total + (latest - began if began is not None and latest is not None else 0.0)

    @property
    def tracked(self) -> tuple[str, str]:
        """The metric that tells the best checkpoint, and whether less or more of it is better."""
        plan = self.spec.get("checkpoint")
        plan = plan if isinstance(plan, Mapping) else {}
        return str(plan.get("metric", "valid/loss")), str(plan.get("mode", "min"))

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, value) of the best finite evaluation of the tracked metric."""
        metric, mode = self.tracked
        points = [(s, v) for s, v in self.series.get(metric, []) if math.isfinite(v)]
        sign = 1.0 if mode == "min" else -1.0
        return min(points, key=lambda p: (sign * p[1], p[0]), default=None)


def read_run(folder: RunFolder) -> RunRecord:
    """Read a run folder. Raises SpecError where it is none; other files that are damaged are left out and named."""
    damaged: list[str] = []
    return RunRecord(
        folder=folder.path,
        spec_text=folder.spec_text(),
        spec=folder.spec_data(),
        environment=_or(folder.environment, {}, damaged),
        events=_or(lambda: _events(folder, damaged), [], damaged),
        panels=_or(folder.panels, [], damaged),
        checkpoints=[_checkpoint(path) for path in checkpoint_paths(folder.checkpoints)],
        survey=_or(folder.survey, {}, damaged),
        damaged=tuple(damaged),
    )


MOST_NAMED = 3
"""Damaged lines of a file that are named each."""


def _events(folder: RunFolder, damaged: list[str]) -> list[dict[str, Any]]:
    """The events that can be read. A last line that is torn is that of a run which was killed while it wrote, or writes now."""
    found: list[dict[str, Any]] = []
    bad: list[tuple[int, str]] = []
    whole = True
    for number, line, event in folder.lines():
        whole = line.endswith(b"\n")
        if isinstance(event, dict):
            numbers = {name: as_float(value) for name, value in event.get("metrics", {}).items()}
            found.append({**event, "metrics": numbers} if numbers else event)
        else:
            bad.append((number, event))
    if bad and not whole:
        bad.pop()
    damaged += [f"{folder.path / METRICS}:{number}: {reason}" for number, reason in bad[:MOST_NAMED]]
    damaged += [f"{folder.path / METRICS}: {len(bad) - MOST_NAMED} more lines are damaged"] if len(bad) > MOST_NAMED else []
    return found


def as_float(value: Any) -> float:
    """A metric as a float; what is no number is not-a-number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _or(read: Callable[[], Any], empty: Any, damaged: list[str]) -> Any:
    try:
        return read()
    except CheckpointError as error:
        damaged.append(str(error))
        return empty


def _checkpoint(path: Path) -> dict[str, Any]:
    size = sum(p.lstat().st_size for p in path.iterdir() if p.is_file())
    try:
        manifest = read_manifest(path)
    except CheckpointError as error:
        return {"name": path.name, "step": step_of(path), "size": size, "error": str(error)}
    return {
        "name": path.name,
        "step": step_of(path),
        "size": size,
        "created": str(manifest.get("created", "")),
        "best": [entry["step"] for entry in manifest.get("best", {}).get("entries", ())],
        "error": None,
    }
