"""Time until an event, of which some are not seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import DataError
from ...tasks.task import Batch, Metrics
from ..losses import Weight
from .base import Pair, Task, indices, readable, task, unless

UNKNOWN = -1
"""An event that is neither 0 nor 1."""


@task
class Survival(Task):
    """The interval in which an event falls: outputs [B, T], the logits of its hazard in each of T intervals, given none before.

    time: the field with the interval [B], from 0, of the event, or of the last one in which there was none; event: the field
    that says which it is, 1 or 0 (censored). The loss is the negative log-likelihood (Gensheimer & Narasimhan 2019), a sum over
    records. Predictions: `survival` [B, T], the probability of no event up to the end of each interval, and `value`, the mean
    number of intervals without one. Metric: `mae` of the intervals of those whose event was seen; `concordance` is a metric.
    Raises DataError for outputs, times and events that do not fit, for a time that is none of the T intervals and an event
    that is neither 0 nor 1; on an accelerator, and where the step is compiled, the loss of a later batch with one is no number.
    """

    def __init__(
        self,
        *,
        input: str | list[str] = "input",
        time: str = "time",
        event: str = "event",
        metrics: Metrics = None,
    ) -> None:
        super().__init__(self._likelihood, input=input, target=time, metrics=metrics)
        self.event = event
        self._known = False

    def wanted(self, batch: Batch) -> Tensor:
        """[B, 2]: the interval, and whether the event was seen in it."""
        time, event = indices(self.field(batch, self.target)), self.field(batch, self.event)
        if not isinstance(time, Tensor) or time.is_floating_point() or time.shape != event.shape or time.dim() != 1:
            raise DataError(
                f"survival: {self.target!r} {list(time.shape)} and {self.event!r} {list(event.shape)} are wanted as [B], whole "
                "numbers of intervals, and 0 or 1"
            )
        return torch.stack([time, torch.where((event == 0) | (event == 1), event, UNKNOWN).to(time.dtype)], 1)

    def _likelihood(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Weight]:
        if outputs.dim() != 2 or len(outputs) != len(target):
            raise DataError(
                f"survival: outputs {list(outputs.shape)} for {len(target)} times: a logit an interval is wanted, [B, T]"
            )
        if readable(target, first=not self._known):
            self._require(outputs, target)
            self._known = True
        time, event = target[:, :1], target[:, 1:]
        interval = torch.arange(outputs.shape[1], device=target.device)
        happens = ((interval == time) & (event > 0)).to(outputs.dtype)
        each = F.binary_cross_entropy_with_logits(outputs, happens, reduction="none")
        bad = (time < 0) | (time >= outputs.shape[1]) | (event == UNKNOWN)
        return unless(bad, torch.where(interval <= time, each, 0.0).sum()), outputs.shape[0]

    def _require(self, outputs: Tensor, target: Tensor) -> None:
        """Raise DataError for a time that is none of the intervals, and for an event that is neither 0 nor 1."""
        time, event = target.unbind(1)
        if target.numel() and bool(((time < 0) | (time >= outputs.shape[1])).any()):
            odd = int(time[(time < 0) | (time >= outputs.shape[1])][0])
            raise DataError(
                f"survival: {outputs.shape[1]} intervals are 0 to {outputs.shape[1] - 1}, and {self.target!r} is {odd}"
            )
        if target.numel() and bool((event == UNKNOWN).any()):
            row = int((event == UNKNOWN).nonzero()[0])
            raise DataError(f"survival: {self.event!r} is neither 0 nor 1 in record {row} of the batch")

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        survival = torch.exp(-F.softplus(outputs.double()).cumsum(1)).to(outputs.dtype)
        return {"value": survival.sum(1), "survival": survival}

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Pair]:
        target = self.wanted(batch)
        self._require(outputs, target)
        time, event = target.unbind(1)
        off = (self.predict(outputs)["value"].double() - time).abs()
        return {"mae": ((off * event).sum(), event.sum()), **super().measure(outputs, batch)}

    def compared(self, outputs: Any, batch: Batch) -> tuple[dict[str, Any], Any, Any]:
        """`value` and `survival`; the interval and whether the event was seen, [B, 2]."""
        return self.predict(outputs), self.wanted(batch), None
