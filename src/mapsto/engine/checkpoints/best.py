"""The best checkpoints so far, by one metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...core.errors import SpecError, nearest


@dataclass
class Best:
    """The steps of the `count` best values of `metric`, best first; where values are equal the earlier stays ahead."""

    count: int
    metric: str
    mode: Literal["min", "max"]
    entries: list[dict[str, Any]] = field(default_factory=list)

    def rank(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take an evaluation in. Raises SpecError where it has no such metric; not-a-number is never among the best."""
        if self.count == 0:
            return
        if self.metric not in metrics:
            raise SpecError(f"checkpoint.metric: an evaluation gives no {self.metric!r}; {nearest(self.metric, metrics)}")
        value = float(metrics[self.metric])
        if math.isnan(value) or step in self.steps():
            return
        sign = 1.0 if self.mode == "min" else -1.0
        ranked = sorted([*self.entries, {"step": step, "value": value}], key=lambda e: (sign * e["value"], e["step"]))
        self.entries = ranked[: self.count]

    def is_new(self, step: int) -> bool:
        """Whether this step is among the best."""
        return step in self.steps()

    def steps(self) -> list[int]:
        return [entry["step"] for entry in self.entries]

    def state(self) -> dict[str, Any]:
        """As a checkpoint and its manifest hold it."""
        return {"metric": self.metric, "mode": self.mode, "entries": list(self.entries)}

    def restore(self, state: Mapping[str, Any], exists: Callable[[int], bool]) -> list[str]:
        """Put a state back; sentences on what of it cannot be the best any more."""
        if (state["metric"], state["mode"]) != (self.metric, self.mode):
            return [f"the best is counted afresh: it was the {state['mode']} of {state['metric']}"] if state["entries"] else []
        self.entries = [e for e in state["entries"] if exists(e["step"])][: self.count]
        gone = [e for e in state["entries"] if not exists(e["step"])]
        return [f"the best checkpoint of step {e['step']} ({self.metric} {e['value']:.6g}) is gone" for e in gone]
