"""What a wing tells the laws of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...core.laws import Example, Trial
from ..compare import Array


@dataclass
class TaskValue:
    """What a task makes of a batch, in float64.

    gradients: of the total, by the name of each parameter of the model, None where it does not depend on one; predictions and
    measures: what its `predict` and `measure` say, None where it has none; measures are (sum, weight).
    """

    total: Array
    weight: float
    gradients: dict[str, Array | None]
    outputs: dict[str, Array]
    predictions: dict[str, Array] | None
    measures: dict[str, tuple[Array, float]] | None


class TaskDriver(Protocol):
    """How tasks are built together with a model, and applied to batches of arrays."""

    def settle(self, trial: Trial) -> Example:
        """The trial's example completed by trying: `inputs`, and in `more` the `model`. Undecided where nothing suits."""
        ...

    def build(self, trial: Trial, *, training: bool = False, stream: str = "build") -> Any:
        """A fresh task with its model in float64 and the mode, the same ones for each stream."""
        ...

    def batch(self, trial: Trial, size: int, *, stream: str = "batch") -> dict[str, Any]:
        """A batch of so many records: arrays, or lists of what else a field holds."""
        ...

    def look(self, trial: Trial, built: Any, batch: Mapping[str, Any], *, seed: int = 0, gradients: bool = True) -> TaskValue:
        """The task of its model and the batch, random numbers drawn from the seed; gradients are left out where not asked."""
        ...

    def differs_by_mode(self, built: Any) -> bool:
        """Whether its model holds a layer whose training and evaluation differ by what they are."""
        ...
