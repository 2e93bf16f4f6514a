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
    much of it was waiting for data), `time/epoch`, `throughput/records` (records a second), `memory/resident` and
    `memory/device` (bytes; of several ranks the most), ...; of `end` the latest of all.
    detail: of a `log` what a doctor looks at: `ranks` (times and memory by rank, where there are several), `health`
    (parameters without gradients, weights that did not change; at some logs), `first` (metrics of the very first step); of
    a `start` that goes on `resumed` (`path`, `step`, `epoch`, what was `restored`, `notes` on what differs, checkpoints
    `set_aside`, lines of metrics `cut`); of a `checkpoint`, which is told when it is complete, its `path`, whether it is
    among the `best`, the `seconds` that writing took (`time/checkpoint`: how long the run stood for it) and those of them in
    which it `waited` for the disk; of the `end`
    the `reason` (finished; stopped: an observer asked; interrupted: a signal, saved; failed; aborted: a second signal) and
    `why`, `traceback` where it failed, `last` and `best` checkpoint, `go_on` (how to), `detached` observers, `panels` of
    the task.
    """

    name: EventName
    step: int
    epoch: float
    metrics: Mapping[str, float]
    run: RunView
    detail: Mapping[str, Any] = field(default_factory=dict)
