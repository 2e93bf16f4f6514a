"""Numbers with their uncertainty: quantiles, or a normal distribution a record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DataError, SpecError
from ...tasks import panels
from ...tasks.task import Batch, Metrics
from ..losses import Weight
from .base import Pair, Task, task

WITHIN = 1.959963984540054
"""Deviations on either side of the mean that hold 95 % of a normal distribution."""


def _beside(target: Tensor, outputs: Tensor) -> Tensor:
    """The target [B, ...] of outputs [B, ..., Q], axes of length 1 aside. Raises DataError where the two do not fit."""
    wanted = outputs.shape[:-1]
    if target.shape[:1] != wanted[:1] or [n for n in target.shape[1:] if n != 1] != [n for n in wanted[1:] if n != 1]:
        raise DataError(
            f"outputs {list(outputs.shape)} and targets {list(target.shape)} do not fit: targets {list(wanted)} are wanted"
        )
    return target.reshape(wanted)


class _Spread(Task):
    """A number a record, told with an interval: `value`, `low` and `high` of what is predicted."""

    def measure(self, outputs: Any, batch: Batch) -> dict[str, Pair]:
        found = self.predict(outputs)
        due = _beside(self.wanted(batch), outputs).double()
        error = found["value"].double() - due
        inside = (found["low"].double() <= due) & (due <= found["high"].double())
        return {
            "mae": (error.abs().sum(), error.numel()),
            "coverage": (inside.sum(), inside.numel()),
            **super().measure(outputs, batch),
        }

    def compared(self, outputs: Any, batch: Batch) -> tuple[dict[str, Any], Any, Any]:
        """The predictions, and the target of the shape of `value`."""
        return self.predict(outputs), _beside(self.wanted(batch), outputs), None

    def panels(self, collected: Sequence[tuple[dict[str, Any], Batch]]) -> list[dict[str, Any]]:
        if not collected:
            return []
        true = torch.cat([b[self.target].double().reshape(-1) for _, b in collected])
        predicted = torch.cat([p["value"].double().reshape(-1) for p, _ in collected])
        return [panels.scatter(true.numpy(), predicted.numpy())]


@task
class Quantiles(_Spread):
    """Quantiles of a number a record: outputs [B, ..., Q], one for each of `levels`, against targets [B, ...].

    The loss is the pinball loss (Koenker & Bassett 1978), summed over records and levels. Predictions are the sorted outputs
    (Chernozhukov et al. 2010), so that no quantile is above a higher one: `quantiles` [B, ..., Q], `value`, the one whose level
    is nearest to 0.5, `low` and `high`. Metrics: `mae` of `value`, and `coverage`, the share of targets from `low` to `high`,
    which the outer levels say (0.8 of 0.1 and 0.9); `below_0.1` and so on, the share of targets below each, which should be its
    level. Raises DataError where the last axis has not one output a level.
    """

    def __init__(
        self,
        levels: list[float] | None = None,
        *,
        input: str | list[str] = "input",
        target: str = "target",
        metrics: Metrics = None,
    ) -> None:
        self.levels = [0.1, 0.5, 0.9] if levels is None else [float(level) for level in levels]
        if not self.levels or sorted({*self.levels}) != self.levels or not (self.levels[0] > 0 and self.levels[-1] < 1):
            raise SpecError(
                f"task.levels: {self.levels}, and rising levels between 0 and 1 are wanted, such as [0.1, 0.5, 0.9]"
            )
        super().__init__(self._pinball, input=input, target=target, metrics=metrics)

    def _pinball(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Weight]:
        if outputs.dim() < 2 or outputs.shape[-1] != len(self.levels):
            raise DataError(
                f"quantiles: outputs {list(outputs.shape)} and targets {list(target.shape)} do not fit: {len(self.levels)} "
                "levels a target are wanted on the last axis"
            )
        error = _beside(target, outputs).unsqueeze(-1) - outputs
        levels = torch.tensor(self.levels, dtype=outputs.dtype, device=outputs.device)
        return torch.maximum(levels * error, (levels - 1) * error).sum(), outputs.numel()

    def measure(self, outputs: Any, batch: Batch) -> dict[str, Pair]:
        found = self.predict(outputs)["quantiles"]
        due = _beside(self.wanted(batch), outputs).unsqueeze(-1)
        below = (due <= found).reshape(-1, len(self.levels)).sum(0)
        shares = {f"below_{level:g}": (part, due.numel()) for level, part in zip(self.levels, below, strict=True)}
        return {**super().measure(outputs, batch), **shares}

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        rising = outputs.sort(-1).values
        middle = min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - 0.5))
        return {"value": rising[..., middle], "low": rising[..., 0], "high": rising[..., -1], "quantiles": rising}


@task
class Gaussian(_Spread):
    """A normal distribution a record: outputs [B, ..., 2], the mean and the logarithm of the variance, against [B, ...].

    The loss is the negative log-likelihood (Nix & Weigend 1994), summed over targets. Predictions: `value`, the mean,
    `deviation`, and `low` and `high`, between which 95 % should lie. Metrics: `mae`, `coverage`. Raises DataError where the
    last axis is not of 2.
    """

    def __init__(self, *, input: str | list[str] = "input", target: str = "target", metrics: Metrics = None) -> None:
        super().__init__(self._likelihood, input=input, target=target, metrics=metrics)

    @staticmethod
    def _likelihood(outputs: Tensor, target: Tensor) -> tuple[Tensor, Weight]:
        if outputs.dim() < 2 or outputs.shape[-1] != 2:
            raise DataError(
                f"gaussian: outputs {list(outputs.shape)} and targets {list(target.shape)} do not fit: mean and log-variance "
                "of each target are wanted on the last axis"
            )
        mean, spread = outputs.unbind(-1)
        square = (_beside(target, outputs) - mean) ** 2 * torch.exp(-spread)
        return 0.5 * (spread + square + math.log(2 * math.pi)).sum(), target.numel()

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        mean, spread = outputs.unbind(-1)
        deviation = torch.exp(0.5 * spread)
        return {"value": mean, "deviation": deviation, "low": mean - WITHIN * deviation, "high": mean + WITHIN * deviation}
