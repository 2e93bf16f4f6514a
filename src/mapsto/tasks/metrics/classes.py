"""Metrics of predicted classes: counts of each class, of which precision, recall, F, IoU and the matrix are made.

`label` is a class [records] against a class, or 0 and 1 of each class [records, classes] against the same (multi-label).
Averages are those of scikit-learn: over the classes that occur in targets or predictions, 0 where nothing is to be divided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ...core.errors import DataError
from .. import panels
from ..metric import Array, Metric, Result, Statistics, quotient

Average = Literal["macro", "micro", "weighted", "binary", "none"]


class Classes(Metric):
    """What is counted of each class: how often it was due, was predicted, and both.

    average: over classes (`macro`: each alike; `weighted`: by how often it is due; `micro`: of all decisions together;
    `binary`: of class 1 alone; `none`: a number a class); leave_out: classes that do not count, such as the background.
    """

    def __init__(self, average: Average = "macro", leave_out: Sequence[int] = ()) -> None:
        self.average, self.leave_out = average, tuple(leave_out)

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        label, due = masked(prediction["label"], target, mask)
        if label.ndim == 2:
            return {"both": (label & due).sum(0), "predicted": label.sum(0), "due": due.sum(0)}
        classes = 1 + max(label.max(initial=-1), due.max(initial=-1))
        count = {"predicted": label, "due": due, "both": due[label == due]}
        return {name: np.bincount(values, minlength=classes) for name, values in count.items()}

    def finish(self, totals: Statistics) -> Result:
        both, predicted, due = (self._kept(totals[name]) for name in ("both", "predicted", "due"))
        if self.average == "micro":
            return float(self.score(both.sum(), predicted.sum(), due.sum()))
        scores = self.score(both, predicted, due)
        if self.average == "binary":
            return float(scores[1]) if len(scores) > 1 else 0.0
        if self.average == "none":
            return {i: float(v) for i, v in enumerate(scores) if i not in self.leave_out}
        weights = due if self.average == "weighted" else (predicted + due > 0)
        return quotient((scores * weights).sum(), weights.sum())

    def _kept(self, counts: Array) -> Array:
        kept = counts.astype(float)
        kept[[i for i in self.leave_out if i < len(kept)]] = 0
        return kept

    def score(self, both: Any, predicted: Any, due: Any) -> Any:
        """The score of a class, of how often it was predicted rightly, predicted, and due."""
        raise NotImplementedError


def masked(label: Array, target: Array, mask: Array | None) -> tuple[Array, Array]:
    """Labels and targets that count, [targets] or [records, classes]. Raises DataError for shapes or classes that cannot be."""
    if label.shape != target.shape:
        raise DataError(f"labels {list(label.shape)} and targets {list(target.shape)} differ")
    if mask is not None:
        label, target = label[mask], target[mask]
    if label.ndim > 2:
        label, target = label.reshape(-1), target.reshape(-1)
    for what, found in (("label", label), ("target", target)):
        if found.size and (found.dtype.kind not in "iub" or found.min() < 0):
            raise DataError(f"a {what} is {found.min() if found.dtype.kind in 'iub' else found.dtype}, and a class is wanted")
    return label.astype(np.int64), target.astype(np.int64)


def over(part: Any, whole: Any) -> Any:
    """part / whole, 0 where there is no whole."""
    return np.divide(part, whole, out=np.zeros_like(part, float), where=np.asarray(whole) > 0)


class Precision(Classes):
    """Of what was predicted as a class, the share that is."""

    def score(self, both: Any, predicted: Any, due: Any) -> Any:  # noqa: ARG002
        return over(both, predicted)


class Recall(Classes):
    """Of what is of a class, the share that was found."""

    def score(self, both: Any, predicted: Any, due: Any) -> Any:  # noqa: ARG002
        return over(both, due)


class FBeta(Classes):
    """(1 + beta^2) precision recall / (beta^2 precision + recall) (van Rijsbergen 1979); beta 1 is their harmonic mean."""

    def __init__(self, beta: float = 1.0, average: Average = "macro", leave_out: Sequence[int] = ()) -> None:
        super().__init__(average, leave_out)
        self.beta = beta

    def score(self, both: Any, predicted: Any, due: Any) -> Any:
        square = self.beta**2
        return over((1 + square) * both, square * due + predicted)


class F1(FBeta):
    """The harmonic mean of precision and recall, which is the Dice coefficient (Dice 1945) of a class."""

    def __init__(self, average: Average = "macro", leave_out: Sequence[int] = ()) -> None:
        super().__init__(1.0, average, leave_out)

    @property
    def name(self) -> str:
        return "f1"


class Dice(F1):
    """2 |A and B| / (|A| + |B|) of the places of each class (Dice 1945)."""

    @property
    def name(self) -> str:
        return "dice"


class IoU(Classes):
    """|A and B| / |A or B| of the places of each class (Jaccard 1912)."""

    @property
    def name(self) -> str:
        return "iou"

    def score(self, both: Any, predicted: Any, due: Any) -> Any:
        return over(both, predicted + due - both)


class BalancedAccuracy(Recall):
    """The mean recall of the classes that are due (Brodersen et al. 2010)."""

    def __init__(self) -> None:
        super().__init__("macro")

    def finish(self, totals: Statistics) -> Result:
        due = totals["due"]
        return float(over(totals["both"].astype(float), due)[due > 0].mean()) if due.any() else float("nan")


class Accuracy(Metric):
    """The share of targets whose label is right; of several classes a record, of single decisions."""

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        label, due = masked(prediction["label"], target, mask)
        return {"right": np.asarray((label == due).sum()), "all": np.asarray(label.size)}

    def finish(self, totals: Statistics) -> Result:
        return quotient(totals["right"], totals["all"])


class Confusion(Metric):
    """How often each class was taken for which: a panel of the report, and the accuracy as its number.

    labels: the classes' names.
    """

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        self.labels = labels

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        label, due = masked(prediction["label"], target, mask)
        if label.ndim > 1:
            raise DataError("confusion: one class a record is wanted, and there are several")
        classes = 1 + max(label.max(initial=-1), due.max(initial=-1))
        return {"matrix": np.bincount(due * classes + label, minlength=classes**2).reshape(classes, classes)}

    def finish(self, totals: Statistics) -> Result:
        matrix = totals["matrix"]
        return quotient(np.trace(matrix), matrix.sum())

    def panel(self, totals: Statistics) -> dict[str, Any] | None:
        return panels.matrix(totals["matrix"], self.labels)
