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
    """Something that happened at `step` (steps taken so far); at one step the order is log, evaluate, epoch, checkpoint.

    metrics: floats named `train/loss`, `train/lr`, `valid/accuracy`, `time/step` and `time/data` (seconds a step, and how
    much of it was waiting for data), `time/epoch`, `throughput/records` (records a second), ...; of `end` the latest of all.
    detail: of a `start` that goes on `resumed` (`path`, `step`, `epoch`, what was `restored`, `notes` on what differs,
    checkpoints `set_aside`, lines of metrics `cut`); of a `checkpoint` its `path` and whether it is among the `best`; of the
    `end` the `reason` (finished; stopped: an observer asked; interrupted: a signal, saved; failed; aborted: a second
    signal) and `why`, `last` and `best` checkpoint, `go_on` (how to), `detached` observers, the task's `panels`.
    """

    name: EventName
    step: int
    epoch: float
    metrics: Mapping[str, float]
    run: RunView
    detail: Mapping[str, Any] = field(default_factory=dict)
