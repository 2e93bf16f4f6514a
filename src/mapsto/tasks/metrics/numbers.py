"""Metrics of numbers: `value` against a target of the same shape; means are over all elements that count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from ...core.errors import DataError, require
from ..metric import Array, Metric, Result, Statistics, quotient
from .scores import ranks


def pair(prediction: Mapping[str, Array], target: Array, mask: Array | None) -> tuple[Array, Array]:
    """Values and targets that count, in float64. Raises DataError where their shapes differ."""
    value = prediction["value"]
    if value.shape != target.shape:
        raise DataError(f"values {list(value.shape)} and targets {list(target.shape)} differ")
    if mask is not None:
        value, target = value[mask], target[mask]
    return value.astype(np.float64), target.astype(np.float64)


class Mean(Metric):
    """The mean of an error."""

    reads: ClassVar[tuple[str, ...]] = ("value",)

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        value, due = pair(prediction, target, mask)
        return {"sum": np.asarray(self.error(value, due).sum()), "all": np.asarray(value.size)}

    def finish(self, totals: Statistics) -> Result:
        return quotient(totals["sum"], totals["all"])

    def error(self, value: Array, due: Array) -> Array:
        """The error of each element."""
        raise NotImplementedError


class MAE(Mean):
    """The mean of the absolute error."""

    def error(self, value: Array, due: Array) -> Array:
        return np.asarray(np.abs(value - due))


class MSE(Mean):
    """The mean of the squared error."""

    def error(self, value: Array, due: Array) -> Array:
        return np.asarray(np.square(value - due))


class RMSE(MSE):
    """The root of the mean squared error."""

    def finish(self, totals: Statistics) -> Result:
        found = super().finish(totals)
        assert isinstance(found, float)
        return float(np.sqrt(found))


class MAPE(Mean):
    """The mean of the absolute error over the absolute target, kept above the rounding error of 1 (as in scikit-learn)."""

    def error(self, value: Array, due: Array) -> Array:
        return np.asarray(np.abs(value - due) / np.maximum(np.abs(due), np.finfo(np.float64).eps))


class QuantileLoss(Mean):
    """The mean of max(q e, (q - 1) e), e being target - value (Koenker & Bassett 1978)."""

    def __init__(self, quantile: float = 0.5) -> None:
        self.quantile = quantile

    def error(self, value: Array, due: Array) -> Array:
        error = due - value
        return np.maximum(self.quantile * error, (self.quantile - 1) * error)


class Recorded(Metric):
    """A metric of all records: no sum tells the spread of numbers far from zero exactly."""

    reads: ClassVar[tuple[str, ...]] = ("value",)
    keep: ClassVar[Literal["sums", "records"]] = "records"

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        value, due = pair(prediction, target, mask)
        return {"value": value, "due": due}

    def finish(self, totals: Statistics) -> Result:
        value, due = (np.reshape(totals[key], (len(totals[key]), -1)) for key in ("value", "due"))
        scores = [self.score(value[:, i], due[:, i]) for i in range(value.shape[1])]
        return float(np.mean(scores)) if scores else float("nan")

    def score(self, value: Array, due: Array) -> float:
        """The score of one column."""
        raise NotImplementedError


class R2(Recorded):
    """1 - squared error / squared deviation from the mean target; of several columns the mean (as in scikit-learn)."""

    @property
    def name(self) -> str:
        return "r2"

    def score(self, value: Array, due: Array) -> float:
        error, spread = np.square(due - value).sum(), np.square(due - due.mean()).sum() if len(due) else 0.0
        if len(due) < 2:
            return float("nan")
        return float(1 - error / spread) if spread else float(error == 0)


class Spearman(Recorded):
    """The correlation of ranks, of equal values their mean rank (Spearman 1904)."""

    def score(self, value: Array, due: Array) -> float:
        if len(due) < 2:
            return float("nan")
        one, other = ranks(value) - (len(due) + 1) / 2, ranks(due) - (len(due) + 1) / 2
        spread = np.sqrt(np.square(one).sum() * np.square(other).sum())
        return float((one * other).sum() / spread) if spread else float("nan")


class Kendall(Recorded):
    """Kendall's tau-b (Kendall 1945), computed by SciPy."""

    def score(self, value: Array, due: Array) -> float:
        stats = require("scipy.stats", "metrics", "the metric kendall")
        return float(stats.kendalltau(value, due).statistic)
