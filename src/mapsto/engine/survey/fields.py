"""Fields: what the values of one field are like, gathered batch by batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .summary import FieldSummary

COLUMNS = 4096
"""Columns of a field that are told apart; of more, only the field as a whole is."""
NAMED = 20

Array = npt.NDArray[Any]


def array_of(values: Any) -> Array | None:
    """A field as an array of numbers; None where it is none (texts, records of unequal lengths, types NumPy lacks)."""
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], (str, bytes)):
        return None
    try:
        found = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        return None
    return found if found.ndim and found.dtype.kind in "biuf" else None


class Field:
    """Gathers what the values of one field are like: `add` each batch of them, then `summary`."""

    def __init__(self, first: Any) -> None:
        found = array_of(first)
        self.kind = "number" if found is not None else "text" if _is_text(first) else "other"
        self.dtype = str(found.dtype) if found is not None else type(first[0]).__name__ if len(first) else "nothing"
        self.tail = found.shape[1:] if found is not None else None
        self.records = self.nonfinite = self.flat = self.empty = 0
        self.examples: list[int] = []
        self.count = self.total = self.squares = 0.0
        self.low, self.high = math.inf, -math.inf
        self._columns: dict[str, Array] = {}
        self._varied = False

    def add(self, values: Any, numbers: Array) -> None:
        """One batch of the field; numbers: those of its records."""
        self.records += len(values)
        if self.kind == "text":
            self.empty += sum(not value.strip() for value in values)
        if self.kind != "number" or (found := array_of(values)) is None or not found.size:
            return
        rows = found.reshape(len(found), -1)
        if rows.shape[1] >= 4 and found.dtype != bool:
            self.flat += int((rows == rows[:, :1]).all(1).sum())
        rows = rows.astype(np.float64)
        finite = np.isfinite(rows)
        if not finite.all():
            bad: Array = ~np.all(finite, axis=1)
            self.nonfinite += int(bad.sum())
            self.examples += numbers[: len(bad)][bad[: len(numbers)]].tolist()[: 5 - len(self.examples)]
        kept = np.where(finite, rows, 0.0)
        self.count += float(finite.sum())
        self.total += float(kept.sum())
        self.squares += float(np.square(kept).sum())
        if finite.any():
            self.low = min(self.low, float(rows[finite].min()))
            self.high = max(self.high, float(rows[finite].max()))
        if rows.shape[1] <= COLUMNS and found.shape[1:] == self.tail:
            self._add_columns(rows, kept, finite)
        else:
            self._varied = True

    def _add_columns(self, rows: Array, kept: Array, finite: Array) -> None:
        new = {
            "low": np.where(finite, rows, np.inf).min(0),
            "high": np.where(finite, rows, -np.inf).max(0),
            "count": finite.sum(0).astype(np.float64),
            "total": kept.sum(0),
            "squares": np.square(kept).sum(0),
        }
        merge = {"low": np.minimum, "high": np.maximum}
        before = self._columns
        self._columns = {name: merge.get(name, np.add)(before[name], value) for name, value in new.items()} if before else new

    def summary(self) -> FieldSummary:
        """What the values that were added are like, as it is written into the run folder."""
        about: dict[str, Any] = {"kind": self.kind, "dtype": self.dtype, "records": self.records, "empty": self.empty}
        if self.tail is not None:
            about["tail"] = list(self.tail)
        if self.count:
            mean = self.total / self.count
            about |= {
                "mean": _finite(mean),
                "std": _finite(math.sqrt(max(self.squares / self.count - mean * mean, 0.0))),
                "rms": _finite(math.sqrt(self.squares / self.count)),
                "low": self.low,
                "high": self.high,
            }
        return FieldSummary(
            **about, nonfinite=self.nonfinite, examples=self.examples, flat=self.flat, **self._columns_summary()
        )

    def _columns_summary(self) -> dict[str, Any]:
        held = self._columns
        if not held or self.records < 2:
            return {}
        constant = held["low"] == held["high"]
        found: dict[str, Any] = {"same": bool(constant.all()) and not self._varied}
        if self.tail is None or len(self.tail) > 1:  # what stands at one place of a picture is no column of a table
            return found
        count = np.maximum(held["count"], 1)
        rms = np.sqrt(held["squares"] / count)
        top = int(rms.argmax())
        return found | {
            "columns": len(constant),
            "constant": [(int(i), float(held["low"][i])) for i in np.flatnonzero(constant)[:NAMED]],
            "largest": (top, _finite(float(rms[top])) or 0.0),
            "median": _finite(float(np.median(rms))),
        }


def _is_text(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and bool(values) and all(isinstance(v, (str, bytes)) for v in values)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
