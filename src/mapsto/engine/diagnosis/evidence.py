"""The evidence: what a run folder tells, arranged for detectors, with the lines it stands in."""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ...core.errors import CheckpointError
from ..folder import METRICS, SPEC, SURVEY
from ..reading import read_lines, read_shaped, shaped
from ..record import RunRecord, as_float
from ..shapes import Error, Launch
from ..stall import Stall, read_stalls
from ..survey.summary import SetSummary, SurveySummary, survey_of
from . import thresholds
from .alive import in_use

ERRORS, LAUNCHES = Path("logs") / "errors", Path("logs") / "launch.jsonl"
"""Where each rank that failed says why, `rank-N.json`, and where the launcher tells what it did, within the run folder."""


@dataclass(frozen=True)
class Log:
    """One `log` event: its line, its step, how many steps it covers, and what it tells."""

    line: int
    step: int
    steps: int
    metrics: Mapping[str, float]
    detail: Mapping[str, Any]

    @property
    def timed(self) -> bool:
        """Whether it tells how long a step took and how long it waited for data."""
        return all(math.isfinite(self.metrics.get(name, math.nan)) for name in ("time/step", "time/data"))


@dataclass(frozen=True)
class Evidence:
    """What detectors look at. Times are seconds, memory is bytes."""

    record: RunRecord
    now: float

    # -- events --------------------------------------------------------------------------------------------------------
    @cached_property
    def logs(self) -> list[Log]:
        """The `log` events of all sessions of the run, in order."""
        found, before = [], 0
        for line, event in enumerate(self.record.events, 1):
            if event.get("name") == "start":
                before = event["step"]
            elif event.get("name") == "log":
                taken, before = max(event["step"] - before, 0), event["step"]
                found.append(Log(line, event["step"], taken, event.get("metrics", {}), event.get("detail") or {}))
        return found

    def points(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a metric, where it is finite."""
        return [(step, value) for step, value in self.record.series.get(name, []) if math.isfinite(value)]

    def spent(self, name: str) -> float:
        """Seconds in all of a time that each log tells a step, such as `time/step`."""
        return sum(log.metrics[name] * log.steps for log in self.logs if math.isfinite(log.metrics.get(name, math.nan)))

    @cached_property
    def last(self) -> Mapping[str, Any]:
        """The last event of any kind that the run wrote down."""
        return self.record.events[-1] if self.record.events else {}

    @cached_property
    def began(self) -> float:
        """When the latest session began; 0 where that is not told."""
        return next((e.get("time", 0.0) for e in reversed(self.record.events) if e.get("name") == "start"), 0.0)

    # -- places --------------------------------------------------------------------------------------------------------
    def at(self, step: int, name: str = "log") -> str:
        """The line of metrics.jsonl with the event of that name at (or else first after) a step."""
        lines = enumerate(self.record.events, 1)
        line = next((i for i, e in lines if e.get("name") == name and e["step"] >= step), len(self.record.events))
        return f"{self.record.folder / METRICS}:{line}"

    def setting(self, path: str) -> str:
        """The line of spec.yaml that a setting stands in, or else that of the setting around it."""
        try:
            node: Any = yaml.compose(self.record.spec_text, Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            return f"{self.record.folder / SPEC} ({path})"
        line, said = 0, ""
        for name in path.split("."):
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            found = next(((key, value) for key, value in pairs if key.value == name), None)
            if found is None:
                said = ", which is not set"
                break
            line, node = found[0].start_mark.line, found[1]
        return f"{self.record.folder / SPEC}:{line + 1} ({path}{said})"

    def part(self, path: str) -> Any:
        """What the spec says at a path, or nothing."""
        found: Any = self.record.spec
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    # -- data ----------------------------------------------------------------------------------------------------------
    @cached_property
    def survey(self) -> SurveySummary | None:
        """What the data were like; None where that was not written down."""
        return survey_of(self.record.survey)

    def set(self, name: str) -> SetSummary | None:
        """What the survey found of one data set, by its name in the spec; None where it was not looked at."""
        return self.survey.sets.get(name) if self.survey is not None else None

    @property
    def evaluated(self) -> list[str]:
        """The sets that are not trained on, of which something is known."""
        return [name for name in self.survey.sets if name != "train"] if self.survey is not None else []

    @property
    def data_file(self) -> str:
        return str(self.record.folder / SURVEY)

    # -- ranks ---------------------------------------------------------------------------------------------------------
    @cached_property
    def errors(self) -> list[dict[str, Any]]:
        """What the ranks of the latest session failed with, the first first."""
        found = []
        for file in sorted((self.record.folder / ERRORS).glob("rank-*.json")):
            try:
                error = read_shaped(file, Error)
            except (OSError, CheckpointError):  # a rank that was killed while it wrote
                continue
            if error.get("time", 0.0) >= self.began:
                found.append({**error, "file": str(file)})
        return sorted(found, key=lambda error: as_float(error.get("time", 0.0)))

    @cached_property
    def launches(self) -> list[dict[str, Any]]:
        """What the launcher tells: `started`, `failed` (a `sentence`, its `kind`, the `ranks`), `ended`, ... in their order."""
        file = self.record.folder / LAUNCHES
        found = []
        with contextlib.suppress(OSError, CheckpointError):
            for line in read_lines(file):
                with contextlib.suppress(ValueError):  # the last line of a launcher that was killed
                    found.append(shaped(line, Launch))
        return found

    @cached_property
    def verdict(self) -> dict[str, Any] | None:
        """What the launcher found the first cause of the failure that ended the run; None where it did not, or went on."""
        for event in reversed(self.launches):
            if event["event"] in ("started", "failed"):
                return event if event["event"] == "failed" and as_float(event.get("time")) >= self.began else None
        return None

    @cached_property
    def stalls(self) -> list[Stall]:
        """What ranks of the latest session left that stood still, or ended without a word."""
        return [stall for stall in read_stalls(self.record.folder) if stall.time >= self.began - 1.0]

    @cached_property
    def alive(self) -> bool:
        """Whether a process is training in the folder; on another host, whether one gave a sign of life just now."""
        elsewhere = any(stall.host != socket.gethostname() for stall in self.stalls)
        latest = max([as_float(self.last.get("time", 0.0)), *(stall.time for stall in self.stalls)])
        return in_use(self.record.folder) or (elsewhere and self.now - latest < 2 * thresholds.STALL_SECONDS)

    def per_rank(self, name: str) -> list[tuple[Log, list[float]]]:
        """(log, value by rank) of what each log tells of its ranks, where there were several."""
        found = []
        for log in self.logs:
            ranks = log.detail.get("ranks")
            values = [as_float(v) for v in ranks.get(name) or ()] if ranks else []
            if len(values) > 1 and all(map(math.isfinite, values)):
                found.append((log, values))
        return found

    @cached_property
    def world(self) -> int:
        """How many ranks the logs tell of."""
        return max((len(values) for name in ("step", "data") for _, values in self.per_rank(name)), default=1)
