"""Early stopping: ends a run whose metric no longer gets better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ...core.doors import typed
from ...core.errors import SpecError, nearest
from ...core.ranges import Count, NonNegative
from ...core.registry import decorator
from ..events import Event
from ..figures import number

observer = decorator("observer")


@observer("early_stopping")
class EarlyStopping:
    """Asks to stop after `patience` evaluations in a row without a better `metric` (Prechelt 1998).

    metric: as evaluations name it; mode: whether less or more of it is better; patience: evaluations; min_delta: by how
    much it must be better than the best so far, in the metric's unit. Not-a-number is never better.
    Raises SpecError for an impossible option, and at an evaluation that has no such metric.
    """

    @typed
    def __init__(
        self,
        metric: str = "valid/loss",
        *,
        mode: Literal["min", "max"] = "min",
        patience: Count = 3,
        min_delta: NonNegative = 0.0,
    ) -> None:
        self.metric, self.mode, self.patience, self.min_delta = metric, mode, patience, min_delta
        self.best: float | None = None
        self.best_step = 0
        self.waited = 0

    @property
    def awaits(self) -> str:
        """The metric without which it would do nothing: a run that never gives it is refused before its first step."""
        return self.metric

    def __call__(self, event: Event) -> None:
        if event.name != "evaluate":
            return
        if self.metric not in event.metrics:
            raise SpecError(f"early_stopping: an evaluation gives no {self.metric!r}; {nearest(self.metric, event.metrics)}")
        value = float(event.metrics[self.metric])
        if self.is_better(value):
            self.best, self.best_step, self.waited = value, event.step, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            event.run.ask_to_stop(self.reason(value))

    def is_better(self, value: float) -> bool:
        """Whether a value is better than the best so far by more than `min_delta`."""
        if value != value:
            return False
        if self.best is None:
            return True
        gain = self.best - value if self.mode == "min" else value - self.best
        return gain > self.min_delta

    def reason(self, value: float) -> str:
        """Why it asks to stop."""
        if self.best is None:
            return f"{self.metric} was not a number in {self.waited} evaluations"
        times = "1 evaluation" if self.waited == 1 else f"{self.waited} evaluations"
        least = f" by more than {number(self.min_delta)}" if self.min_delta else ""
        side = "below" if self.mode == "min" else "above"
        return (
            f"{self.metric} did not get {side} {number(self.best)} (step {self.best_step}){least} in {times}; "
            f"it is {number(value)} now"
        )

    def state_dict(self) -> dict[str, Any]:
        """What the next evaluation needs to know."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, data: Mapping[str, Any]) -> None:
        """Go on from the best value and the patience left that a checkpoint holds."""
        self.best, self.best_step, self.waited = data["best"], data["best_step"], data["waited"]
