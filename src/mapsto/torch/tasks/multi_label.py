"""Several classes a record, each a decision of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor

from ...core.errors import DataError
from ...tasks.task import Batch, Metrics
from ..losses import LOSS, Weight
from .base import Pair, Task, default, task


@task
class MultiLabel(Task):
    """Any of the classes a record: logits [B, ..., C] against 0 and 1 of the same shape, each class a decision of its own.

    threshold: the probability from which a class is predicted, one or one a class. Metrics: `accuracy`, of single
    decisions, and `exact_match`, of records whose every class is right. labels: the classes' names.
    """

    def __init__(
        self,
        loss: Annotated[Any, LOSS] = "binary_cross_entropy",
        *,
        input: str | list[str] = "input",
        target: str = "target",
        labels: list[str] | None = None,
        threshold: float | list[float] = 0.5,
        metrics: Metrics = None,
    ) -> None:
        super().__init__(default(loss), input=input, target=target, metrics=metrics)
        self.labels, self.threshold = labels, threshold

    def __call__(self, model: Callable[..., Any], batch: Batch) -> tuple[Tensor, Weight, Any]:
        outputs = self.forward(model, batch)
        total, weight = self.loss(outputs, self._target(outputs, batch))
        return total, weight, outputs

    def _target(self, outputs: Tensor, batch: Batch) -> Tensor:
        target: Tensor = self.field(batch, self.target)
        if target.shape != outputs.shape:
            raise DataError(
                f"multi_label: logits {list(outputs.shape)} and targets {list(target.shape)} differ, and each class has a "
                "target of 0 or 1; one class a record is the task classification"
            )
        return target.to(outputs.dtype)

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        probability = torch.sigmoid(outputs.float())
        least = torch.as_tensor(self.threshold, dtype=probability.dtype, device=probability.device)
        return {"label": (probability > least).long(), "probability": probability}

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Pair]:
        right = self.predict(outputs)["label"] == (self._target(outputs, batch) > 0.5)
        whole = right.all(-1)
        return {
            "accuracy": (right.sum(), right.numel()),
            "exact_match": (whole.sum(), whole.numel()),
            **super().measure(outputs, batch),
        }

    def compared(self, outputs: Tensor, batch: Batch) -> tuple[dict[str, Any], Any, Any]:
        """A row a record: `label` and `probability` of each class, and 0 or 1 of each."""
        classes = outputs.shape[-1]
        target = (self._target(outputs, batch) > 0.5).long().reshape(-1, classes)
        return {n: v.reshape(-1, classes) for n, v in self.predict(outputs).items()}, target, None
