"""An observer watches a run and never changes its trajectory. Installed, `observer/my_name` works in every spec."""

from __future__ import annotations

from typing import Any, Literal

from mapsto import Event


class MyName:
    """Ask the run to stop once a metric has reached a goal `times` evaluations in a row.

    metric: such as `valid/loss` or `train/loss`; mode: whether it must be at most (`min`) or at least (`max`) the goal.
    """

    # The arguments are the options that a spec states.
    def __init__(self, goal: float, *, metric: str = "valid/loss", mode: Literal["min", "max"] = "min", times: int = 1) -> None:
        self.goal, self.metric, self.mode, self.times = goal, metric, mode, times
        self.reached = 0

    # `event.name` is start, log, epoch, evaluate, checkpoint or end. Metrics are floats that were fetched together;
    # there is no way from here to the live weights (`event.run.weights()` are copies).
    def __call__(self, event: Event) -> None:
        if event.name not in ("log", "evaluate") or self.metric not in event.metrics:
            return
        value = event.metrics[self.metric]
        there = value <= self.goal if self.mode == "min" else value >= self.goal
        self.reached = self.reached + 1 if there else 0
        if self.reached >= self.times:
            event.run.ask_to_stop(f"{self.metric} is {value:.6g} and the goal was {self.goal:.6g}")

    # What it keeps goes into checkpoints (as JSON).
    def state_dict(self) -> dict[str, Any]:
        """How often in a row the goal was reached."""
        return {"reached": self.reached}

    def load_state_dict(self, data: dict[str, Any]) -> None:
        """Put it back."""
        self.reached = data["reached"]
