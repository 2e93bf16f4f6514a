"""Regression: numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from ...tasks import panels
from ...tasks.task import Batch, Metrics
from ..losses import LOSS
from .base import Pair, Task, default, task


@task
class Regression(Task):
    """A number, or an array of them, a record: predictions of the target's shape. Metrics: `mae`, `mse`."""

    def __init__(
        self,
        loss: Annotated[Any, LOSS] = "mse",
        *,
        input: str | list[str] = "input",
        target: str = "target",
        metrics: Metrics = None,
    ) -> None:
        super().__init__(default(loss), input=input, target=target, metrics=metrics)

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"value": outputs}

    def _target(self, outputs: Tensor, batch: Batch) -> Tensor:
        target: Tensor = self.field(batch, self.target)
        if target.shape != outputs.shape and target.numel() == outputs.numel():
            target = target.reshape(outputs.shape)  # for a loss that takes [B, 1] and [B]: subtracted they would be [B, B]
        return target

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Pair]:
        error = (outputs - self._target(outputs, batch)).double()
        return {
            "mae": (error.abs().sum(), error.numel()),
            "mse": (error.square().sum(), error.numel()),
            **super().measure(outputs, batch),
        }

    def compared(self, outputs: Tensor, batch: Batch) -> tuple[dict[str, Any], Any, Any]:
        """`value` as the model gives it, and the target of the same shape."""
        return self.predict(outputs), self._target(outputs, batch), None

    def panels(self, collected: Sequence[tuple[dict[str, Any], Batch]]) -> list[dict[str, Any]]:
        if not collected:
            return []
        true = torch.cat([b[self.target].double().reshape(-1) for _, b in collected])
        predicted = torch.cat([p["value"].double().reshape(-1) for p, _ in collected])
        return [panels.scatter(true.numpy(), predicted.numpy())]
