"""A metric: (prediction, target) -> statistics that add, and what they tell at the end of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

import mapsto
from mapsto.tasks.metric import Metric

Array = np.ndarray[Any, Any]


@mapsto.metric
class MyName(Metric):
    """The share of records whose class is predicted with a probability of at least `sure` and is right.

    Statistics of batches add, whatever their sizes, so that the result is that of all records.
    """

    reads: ClassVar[tuple[str, ...]] = ("label", "probability")

    def __init__(self, sure: float = 0.5) -> None:
        self.sure = sure

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> dict[str, Array]:
        right = (prediction["label"] == target) & (prediction["probability"].max(-1) >= self.sure)
        counted = np.ones(len(target), bool) if mask is None else mask
        return {"right": np.asarray((right & counted).sum()), "all": np.asarray(counted.sum())}

    def finish(self, totals: Mapping[str, Array]) -> float:
        return float(totals["right"] / totals["all"]) if totals["all"] else float("nan")
