"""Schedules: the framework's own, by name, and the shapes people write by hand. `total_steps` is injected by the run.

A schedule is stepped after every update. Any `torch.optim.lr_scheduler` class may be named directly.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from ..core.errors import SpecError
from ..core.parts import as_part, build
from ..core.ranges import BelowOne, NonNegative, Share, Whole
from ..core.registry import decorator

schedule = decorator("schedule")


@schedule
def warmup(
    optimizer: torch.optim.Optimizer,
    total_steps: int,
    *,
    steps: Whole | Share = 0.0,
    decay: Literal["cosine", "linear", "constant", "inverse_sqrt"] = "cosine",
    final: NonNegative = 0.0,
) -> LambdaLR:
    """Linear warm-up, then a decay: the factor on each group's learning rate at step t (the update after t steps).

    steps: of warm-up, an int of steps or a float share of total_steps; factor (t + 1) / steps while t < steps. Then, with
    p = (t - steps) / (total_steps - steps): cosine `final + (1 - final) (1 + cos(pi p)) / 2` (Loshchilov & Hutter 2017),
    linear `1 - (1 - final) p`, inverse_sqrt `sqrt(steps / t)` (Vaswani et al. 2017), constant 1. Raises SpecError.
    """
    rise = round(steps * total_steps) if isinstance(steps, float) else steps
    if rise < 0 or rise > total_steps:
        raise SpecError(f"schedule.steps: {steps!r} is not between 0 and total_steps ({total_steps})")

    def factor(t: int) -> float:
        if t < rise:
            return (t + 1) / rise
        if decay == "constant":
            return 1.0
        if decay == "inverse_sqrt":
            return math.sqrt(max(rise, 1) / max(t, rise, 1))
        part = min(1.0, (t - rise) / max(1, total_steps - rise))
        return final + (1 - final) * (1 + math.cos(math.pi * part)) / 2 if decay == "cosine" else 1 - (1 - final) * part

    return LambdaLR(optimizer, factor)


@schedule
def plateau(
    optimizer: torch.optim.Optimizer,
    *,
    metric: str = "valid/loss",
    mode: Literal["min", "max"] = "min",
    factor: BelowOne = 0.1,
    patience: Whole = 10,
    threshold: NonNegative = 1e-4,
    min_lr: NonNegative = 0.0,
) -> ReduceLROnPlateau:
    """Multiply the learning rate by `factor` when `metric` has not improved for `patience` evaluations."""
    made = ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience, threshold=threshold, min_lr=min_lr)
    made.mapsto_metric = metric  # type: ignore[attr-defined]
    return made


@schedule
class EachEpoch:
    """A schedule that counts epochs: `schedule` is stepped at the end of each epoch instead of after each update."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Any, steps_per_epoch: int) -> None:
        self.inner = build(as_part(schedule), "schedule", optimizer, path="schedule.schedule")
        self.steps_per_epoch, self.steps = steps_per_epoch, 0

    def step(self) -> None:
        self.steps += 1
        if self.steps % self.steps_per_epoch == 0:
            self.inner.step()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "inner": self.inner.state_dict()}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        self.steps = tree["steps"]
        self.inner.load_state_dict(tree["inner"])
