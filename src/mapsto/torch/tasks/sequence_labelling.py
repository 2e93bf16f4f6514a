"""A class for each token of a sequence."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...core.errors import DataError
from ...tasks.metrics.spans import SpanF1
from ...tasks.task import Batch, Metrics
from ..losses import IGNORE
from .base import task
from .classification import Classification


@task
class SequenceLabelling(Classification):
    """One class a token: logits [B, T, C] against class indices [B, T]; those that are `ignore_index`, such as padding, do not
    count.

    labels: the names of the classes; where they mark spans (`B-PER`, `I-PER`, `O`), precision, recall and F1 of whole spans are
    measured as `span_f1`. Metric besides: `accuracy` of tokens. Metrics see whole sequences, [B, T].
    """

    def __init__(
        self,
        loss: Any = "cross_entropy",
        *,
        input: str | list[str] = "input",
        target: str = "target",
        labels: list[str] | None = None,
        ignore_index: int = IGNORE,
        metrics: Metrics = None,
    ) -> None:
        super().__init__(
            loss, input=input, target=target, labels=labels, class_axis=-1, ignore_index=ignore_index, metrics=metrics
        )
        if labels is not None and any(name == "B" or name.startswith("B-") for name in labels):
            self.metrics = {"span_f1": SpanF1(labels), **self.metrics}

    def compared(self, outputs: Tensor, batch: Batch) -> tuple[dict[str, Any], Any, Any]:
        """A row a sequence: `label` [B, T], `probability` [B, T, C], the classes that are due, and which tokens count."""
        logits, target = self._aligned(outputs, batch)
        if logits.dim() != 3:
            raise DataError(f"sequence_labelling: logits {list(outputs.shape)}, and [B, T, C] are wanted")
        return self.predict(outputs), target, self._counted(target)
