"""A task without its arithmetic: which fields the model is called with, what its output is compared with, which metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.errors import DataError, nearest
from .metric import Metric, by_name, is_counting

Batch = Mapping[str, Any]
Pair = tuple[Any, Any]
Result = tuple[Any, Any, Any]
Metrics = Mapping[str, Any] | Sequence[Any] | None
"""Metrics by name, or as a list of those that name themselves."""


class Task(ABC):
    """A task whose loss compares the model's output with a target.

    loss: (prediction, target) -> (total, weight), as the wing's `stated` makes it; input: the field, or fields, that the
    model is called with; target: the field it is compared with; metrics: more measurements, by name or as a list: each a
    `Metric`, a function `(outputs, target) -> (sum, weight)` of the framework's arrays, whose mean is exact, or one that
    keeps its own sums and has `compute` (as torchmetrics).
    """

    labels: Sequence[str] | None = None

    def __init__(
        self,
        loss: Callable[[Any, Any], tuple[Any, Any]],
        *,
        input: str | list[str] = "input",
        target: str = "target",
        metrics: Metrics = None,
    ) -> None:
        self.loss = loss
        self.inputs = (input,) if isinstance(input, str) else tuple(input)
        self.target = target
        self.metrics = by_name(metrics)

    def __call__(self, model: Callable[..., Any], batch: Batch) -> Result:
        prediction = self.forward(model, batch)
        total, weight = self.loss(prediction, self.wanted(batch))
        return total, weight, prediction

    def forward(self, model: Callable[..., Any], batch: Batch) -> Any:
        """The model's output for a batch."""
        try:
            return model(*[batch[name] for name in self.inputs])
        except KeyError as error:
            if error.args and error.args[0] in self.inputs:
                self.field(batch, error.args[0])
            raise

    @staticmethod
    def field(batch: Batch, name: str) -> Any:
        """A field of the batch. Raises DataError with those there are."""
        if name not in batch:
            raise DataError(f"the batch has no field {name!r}; {nearest(name, batch)}")
        return batch[name]

    def wanted(self, batch: Batch) -> Any:
        """The target of a batch that the model's output is compared with."""
        return self.field(batch, self.target)

    @abstractmethod
    def predict(self, outputs: Any) -> dict[str, Any]:
        """What the model's output says, as a dict of arrays whose first axis is records."""

    def measure(self, outputs: Any, batch: Batch) -> dict[str, Pair]:
        """Measurements of a batch as pairs (sum, weight), averaged exactly over an evaluation."""
        target = self.wanted(batch)
        return {n: f(outputs, target) for n, f in self.metrics.items() if not is_counting(f) and not hasattr(f, "compute")}

    def stateful_metrics(self) -> dict[str, Any]:
        """Metrics that keep their own sums (torchmetrics): name -> metric."""
        return {n: f for n, f in self.metrics.items() if hasattr(f, "compute") and not is_counting(f)}

    def counting_metrics(self) -> dict[str, Metric]:
        """Metrics whose statistics add: name -> metric."""
        return {n: f for n, f in self.metrics.items() if is_counting(f)}

    def compared(self, outputs: Any, batch: Batch) -> tuple[dict[str, Any], Any, Any]:
        """What those are given of a batch: predictions by field, the target, and which of its entries count (None: all)."""
        return self.predict(outputs), self.wanted(batch), None

    def derive(self, means: Mapping[str, float]) -> dict[str, float]:  # noqa: ARG002
        """More metrics computed from the finished means of an evaluation (`loss` among them)."""
        return {}

    def panels(self, collected: Sequence[tuple[dict[str, Any], Batch]]) -> list[dict[str, Any]]:  # noqa: ARG002
        """What a report shows, from (prediction, batch) pairs on the CPU: plain data; see `mapsto.engine.report`."""
        return []
