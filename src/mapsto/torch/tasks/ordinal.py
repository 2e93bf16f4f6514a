"""Classes that stand in an order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import DataError
from ...tasks.task import Batch, Metrics
from ..losses import Weight
from .base import Pair, Task, indices, readable, task, unless


@task
class Ordinal(Task):
    """One of K classes in an order, such as a grade: outputs [B, K - 1], the logits of "above class k", against [B] or [B, 1].

    The loss is the binary cross entropy of each of the K - 1 questions (Frank & Hall 2001; Cao, Mirjalili & Raschka 2020),
    summed; its weight is the number of records. Predictions: `label`, the number of questions that are answered yes, `value`,
    the mean class, and `probability` [B, K], from cumulative probabilities made to fall. Metrics: `accuracy`, `mae` in classes.
    Raises DataError where outputs and targets do not fit, or a target is none of the K classes; on an accelerator, and where
    the step is compiled, the loss of a later batch with such a target is no number.
    """

    def __init__(
        self,
        *,
        input: str | list[str] = "input",
        target: str = "target",
        labels: list[str] | None = None,
        metrics: Metrics = None,
    ) -> None:
        super().__init__(self._questions, input=input, target=target, metrics=metrics)
        self.labels = labels
        self._known = False

    def wanted(self, batch: Batch) -> Any:
        target = indices(super().wanted(batch))
        return target[:, 0] if isinstance(target, Tensor) and target.dim() == 2 and target.shape[1] == 1 else target

    def _questions(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Weight]:
        if outputs.dim() != 2 or target.shape != outputs.shape[:1] or target.is_floating_point():
            raise DataError(
                f"ordinal: outputs {list(outputs.shape)} and targets {list(target.shape)} do not fit: [B, K - 1] logits and "
                "[B] class indices are wanted"
            )
        if readable(target, first=not self._known):
            self._require(outputs, target)
            self._known = True
        above = (target.unsqueeze(1) > torch.arange(outputs.shape[1], device=target.device)).to(outputs.dtype)
        total = F.binary_cross_entropy_with_logits(outputs, above, reduction="sum")
        return unless((target < 0) | (target > outputs.shape[1]), total), outputs.shape[0]

    @staticmethod
    def _require(outputs: Tensor, target: Tensor) -> None:
        """Raise DataError for a target that is none of the classes."""
        most = outputs.shape[1]
        if target.numel() and bool(((target < 0) | (target > most)).any()):
            odd = int(target[(target < 0) | (target > most)][0])
            raise DataError(f"ordinal: {most} logits tell classes 0 to {most}, and a target is {odd}")

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        above = torch.sigmoid(outputs.float())
        falling = above.cummin(1).values
        edges = torch.cat([torch.ones_like(falling[:, :1]), falling, torch.zeros_like(falling[:, :1])], 1)
        return {"label": (above > 0.5).sum(1), "value": falling.sum(1), "probability": edges[:, :-1] - edges[:, 1:]}

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Pair]:
        target = self.wanted(batch)
        self._require(outputs, target)
        off = (self.predict(outputs)["label"] - target).abs()
        return {"accuracy": ((off == 0).sum(), off.numel()), "mae": (off.sum(), off.numel()), **super().measure(outputs, batch)}
