"""Metrics of probabilities: `probability` of class 1 [records], or of each class [records, classes].

The target is a class [records], or 0 and 1 of each class [records, classes] (multi-label).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from ...core.errors import DataError
from .. import panels
from ..metric import Array, Metric, Result, Statistics, quotient

LEAST = float(np.finfo(np.float64).eps)


class Scores(Metric):
    """A metric of probabilities."""

    reads: ClassVar[tuple[str, ...]] = ("probability",)


def chosen(prediction: Mapping[str, Array], target: Array, mask: Array | None) -> tuple[Array, Array]:
    """Probabilities in float64, [records, classes] of one class a record, and the targets that count.

    Raises DataError where they do not fit.
    """
    probability = prediction["probability"].astype(np.float64)
    if mask is not None:
        if mask.shape == probability.shape and mask.ndim > 1:
            raise DataError("probabilities are masked by record, not by class")
        probability, target = probability[mask], target[mask]
    if probability.shape != target.shape and probability.shape[:-1] != target.shape:
        raise DataError(f"probabilities {list(probability.shape)} and targets {list(target.shape)} do not fit")
    if probability.ndim == 1:
        probability = np.stack([1 - probability, probability], 1)
    if probability.ndim > 2:
        probability, target = probability.reshape(-1, probability.shape[-1]), target.reshape(-1)
    return probability, target.astype(np.int64)


def due(probability: Array, target: Array) -> Array:
    """0 and 1 of each class, [records, classes]."""
    return target if target.ndim == 2 else np.asarray(target[:, None] == np.arange(probability.shape[1]), np.int64)


class TopK(Scores):
    """The share of records whose class is among the k most probable; of equal ones the class of less number comes first."""

    def __init__(self, k: int = 5) -> None:
        self.k = k

    @property
    def name(self) -> str:
        return f"top_{self.k}"

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        p, y = chosen(prediction, target, mask)
        own = np.take_along_axis(p, y[:, None], 1)
        before = (p > own).sum(1) + ((p == own) & (np.arange(p.shape[1]) < y[:, None])).sum(1)
        return {"right": np.asarray(((before < self.k) & ~np.isnan(own[:, 0])).sum()), "all": np.asarray(len(y))}

    def finish(self, totals: Statistics) -> Result:
        return quotient(totals["right"], totals["all"])


class LogLoss(Scores):
    """The mean of -log p of the class that is due; p is kept above the rounding error of 1 (as in scikit-learn)."""

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        p, y = chosen(prediction, target, mask)
        own = np.clip(p[np.arange(len(y)), y], LEAST, 1)
        return {"sum": np.asarray(-np.log(own).sum()), "all": np.asarray(len(y))}

    def finish(self, totals: Statistics) -> Result:
        return quotient(totals["sum"], totals["all"])


class Perplexity(LogLoss):
    """The exponential of the mean of -log p."""

    def finish(self, totals: Statistics) -> Result:
        found = super().finish(totals)
        assert isinstance(found, float)
        return float(np.exp(min(found, 700.0)))


class Brier(Scores):
    """The squared distance of the probabilities to what is due (Brier 1950): of two classes of class 1's, of more the sum."""

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        p, y = chosen(prediction, target, mask)
        square = np.square(p - due(p, y)).sum()
        return {"sum": np.asarray(square / 2 if p.shape[1] == 2 and y.ndim == 1 else square), "all": np.asarray(len(y))}

    def finish(self, totals: Statistics) -> Result:
        return quotient(totals["sum"], totals["all"])


class ECE(Scores):
    """The expected calibration error (Naeini et al. 2015): how far, over bins of the largest probability, the mean of it is
    from the share that is right. A panel shows the bins."""

    def __init__(self, bins: int = 15) -> None:
        self.bins = bins

    @property
    def name(self) -> str:
        return "ece"

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        p, y = chosen(prediction, target, mask)
        most, right = p.max(1), p.argmax(1) == y
        which = np.clip(np.ceil(np.nan_to_num(most) * self.bins).astype(int) - 1, 0, self.bins - 1)  # bins (0, 1/n], ...

        def by_bin(values: Array) -> Array:
            return np.bincount(which, values, minlength=self.bins)

        return {"all": by_bin(np.ones(len(y))), "sure": by_bin(most), "right": by_bin(right.astype(float))}

    def finish(self, totals: Statistics) -> Result:
        whole = totals["all"].sum()
        return quotient(np.abs(totals["sure"] - totals["right"]).sum(), whole)

    def panel(self, totals: Statistics) -> dict[str, Any] | None:
        kept = totals["all"] > 0
        n, sure, right = (totals[key][kept] for key in ("all", "sure", "right"))
        points = list(zip((sure / n).tolist(), (right / n).tolist(), strict=True))
        return panels.curves("Calibration", "probability", "share that is right", {"bins": points}, diagonal=True)


Average = Literal["macro", "weighted", "none"]


class _Ranked(Scores):
    """A score of each class against the others, of all records; of two classes that of class 1.

    average: over classes that have both records that are theirs and others: `macro`, `weighted` by how many are theirs,
    `none`: a number a class.
    """

    keep: ClassVar[Literal["sums", "records"]] = "records"

    def __init__(self, average: Average = "macro") -> None:
        self.average = average

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        p, y = chosen(prediction, target, mask)
        return {"probability": p, "due": due(p, y).astype(np.int8)}

    def finish(self, totals: Statistics) -> Result:
        p, y = totals["probability"], totals["due"]
        if p.shape[1] == 2 and (y.sum(1) == 1).all() and np.allclose(p.sum(1), 1):
            return self.score(p[:, 1], y[:, 1])
        scores = {i: self.score(p[:, i], y[:, i]) for i in range(p.shape[1])}
        if self.average == "none":
            return scores
        known = {i: v for i, v in scores.items() if not np.isnan(v)}
        weights = [float(y[:, i].sum()) if self.average == "weighted" else 1.0 for i in known]
        return float(np.average(list(known.values()), weights=weights)) if known else float("nan")

    def score(self, probability: Array, due: Array) -> float:
        """The score of one class; not a number where its records are all or none of them."""
        raise NotImplementedError


class AUROC(_Ranked):
    """The chance that a record of a class has a higher probability of it than another one, equal ones counted half (Hanley &
    McNeil 1982). A panel shows the curves."""

    @property
    def name(self) -> str:
        return "auroc"

    def score(self, probability: Array, due: Array) -> float:
        theirs, others = int(due.sum()), int((1 - due).sum())
        if not theirs or not others or np.isnan(probability).any():
            return float("nan")
        return float((ranks(probability)[due == 1].sum() - theirs * (theirs + 1) / 2) / (theirs * others))

    def panel(self, totals: Statistics) -> dict[str, Any] | None:
        p, y = totals["probability"], totals["due"]
        which = [1] if p.shape[1] == 2 else range(min(p.shape[1], 8))
        return panels.curves(
            "ROC", "false positives", "true positives", {str(i): roc(p[:, i], y[:, i]) for i in which}, diagonal=True
        )


class AveragePrecision(_Ranked):
    """The sum of precision times the gain in recall over the probabilities from the highest on; equal ones come together."""

    def score(self, probability: Array, due: Array) -> float:
        if not due.any() or np.isnan(probability).any():
            return float("nan")
        found, taken = steps(probability, due)
        gained = np.diff(found, prepend=0) / found[-1]
        return float((gained * found / taken).sum())

    def panel(self, totals: Statistics) -> dict[str, Any] | None:
        p, y = totals["probability"], totals["due"]
        lines = {}
        for i in [1] if p.shape[1] == 2 else range(min(p.shape[1], 8)):
            found, taken = steps(p[:, i], y[:, i])
            lines[str(i)] = thin(np.stack([found / max(found[-1], 1), found / taken], 1))
        return panels.curves("Precision over recall", "recall", "precision", lines)


def ranks(values: Array) -> Array:
    """Ranks from 1, of equal values their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place])


def steps(probability: Array, due: Array) -> tuple[Array, Array]:
    """How many of a class are found among how many that are taken, at each different probability from the highest on."""
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
    return np.cumsum(due[order])[ends], ends + 1


def roc(probability: Array, due: Array) -> list[tuple[float, float]]:
    """The share of others over the share of a class that are taken."""
    found, taken = steps(probability, due)
    curve = np.stack([(taken - found) / max(taken[-1] - found[-1], 1), found / max(found[-1], 1)], 1)
    return [(0.0, 0.0), *thin(curve)]


def thin(points: Array, most: int = 200) -> list[tuple[float, float]]:
    """At most so many of the points, the last among them."""
    kept = np.unique(np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int))
    return [(float(x), float(y)) for x, y in points[kept]]
