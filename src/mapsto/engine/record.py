"""What a run folder tells: its events as series, its checkpoints, its state, all read without a framework."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, SpecError
from ..core.spec import read_yaml
from .checkpoint import checkpoint_paths, step_of
from .folder import SPEC, RunFolder
from .manifest import read_manifest

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class RunRecord:
    """One run as its folder tells it. `spec` is plain data, `events` the lines of metrics.jsonl in their order."""

    folder: Path
    spec_text: str
    spec: Mapping[str, Any]
    environment: Mapping[str, Any]
    events: list[dict[str, Any]]
    panels: list[dict[str, Any]]
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    survey: Mapping[str, Any] = field(default_factory=dict)

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
                found.setdefault(name, {})[event["step"]] = as_float(value)
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
        return str(self.last_end.get("detail", {}).get("reason", "finished")) if self.last_end else "unfinished"

    @property
    def why(self) -> str:
        if self.last_end is None:
            return "it is still running, or was killed"
        return str(self.last_end.get("detail", {}).get("why", ""))

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
            if "time" not in event:  # an evaluation that was asked for afterwards
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
    """Read a run folder. Raises SpecError where it is none."""
    file = folder.path / SPEC
    if not file.is_file():
        raise SpecError(f"{folder.path} is not the folder of a run: it has no {SPEC}")
    text = file.read_text(encoding="utf-8")
    try:
        data = read_yaml(text)
    except SpecError as error:
        raise SpecError(f"{file}: {error}") from None
    return RunRecord(
        folder=folder.path,
        spec_text=text,
        spec=data if isinstance(data, Mapping) else {},
        environment=_or_empty(folder.environment, {}),
        events=list(folder.records()),
        panels=_or_empty(folder.panels, []),
        checkpoints=[_checkpoint(path) for path in checkpoint_paths(folder.checkpoints)],
        survey=_or_empty(folder.survey, {}),
    )


def as_float(value: Any) -> float:
    """A metric as a float; what is no number is not-a-number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _or_empty(read: Any, empty: Any) -> Any:
    try:
        return read()
    except (ValueError, TypeError):  # a run that was killed while it wrote tells what it can
        return empty


def _checkpoint(path: Path) -> dict[str, Any]:
    size = sum(p.stat().st_size for p in path.iterdir() if p.is_file())
    try:
        manifest = read_manifest(path)
    except CheckpointError as error:
        return {"name": path.name, "step": step_of(path), "size": size, "error": str(error)}
    return {
        "name": path.name,
        "step": step_of(path),
        "size": size,
        "created": str(manifest.get("created", "")),
        "best": [entry["step"] for entry in manifest["best"]["entries"]],
        "error": None,
    }
