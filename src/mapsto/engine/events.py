"""Events: what a run tells its observers, and all that an observer can do with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..core.spec import Spec

EventName = Literal["start", "log", "epoch", "evaluate", "checkpoint", "end"]


@dataclass(frozen=True)
class RunView:
    """What an observer may know of a run. Weights are handed out as copies; the only request it can make is to stop."""

    folder: Path
    spec: Spec
    total_steps: int
    steps_per_epoch: int
    summary: Mapping[str, Any]
    weights: Callable[[], dict[str, Any]] = field(repr=False)
    ask_to_stop: Callable[[str], None] = field(repr=False)


@dataclass(frozen=True)
class Event:
    """Something that happened at `step` (steps taken so far).

    metrics: floats named `train/loss`, `train/lr`, `valid/accuracy`, `time/step` (seconds a step), `time/data`,
    `throughput/records` (records a second), ...; detail: what else belongs to this event, such as the path of a checkpoint
    (`path`), the reason of the end (`reason`: finished, stopped, interrupted, failed) or of a resume (`resumed`).
    """

    name: EventName
    step: int
    epoch: float
    metrics: Mapping[str, float]
    run: RunView
    detail: Mapping[str, Any] = field(default_factory=dict)
