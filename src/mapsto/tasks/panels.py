"""Panels of a report (see `mapsto.engine.report`), from arrays: plain data that JSON can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

POINTS = 2000
"""Points of a scatter plot that are kept."""


def confusion(
    predicted: NDArray[np.int64], target: NDArray[np.int64], classes: int, labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """How many records of each class (rows) were taken for which (columns); both are class numbers, [records]."""
    classes = max(classes, int(target.max(initial=0)) + 1)
    matrix = np.bincount(target * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    named = list(labels or map(str, range(classes)))
    return {"kind": "confusion", "title": "Confusion matrix", "labels": named, "rows": matrix.tolist()}


def scatter(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, Any]:
    """Predicted against true numbers, [records] each."""
    points = list(zip(true[:POINTS].tolist(), predicted[:POINTS].tolist(), strict=True))
    return {"kind": "scatter", "title": "Predicted against true", "x": "true", "y": "predicted", "points": points}


def samples(title: str, columns: list[str], rows: list[list[str]]) -> dict[str, Any]:
    """A table of text, a row a record."""
    return {"kind": "samples", "title": title, "columns": columns, "rows": rows}
