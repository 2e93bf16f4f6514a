"""Metrics: (prediction, target) -> statistics that add, and at the end of an evaluation the numbers that they tell.

A metric sees NumPy arrays, so that every wing has the same ones: what the task predicts, by field, and what it is compared
with. Its statistics add over batches, micro-shards and ranks, so that an evaluation does not depend on how it was cut.
"""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from ..core.errors import DataError, SpecError, nearest

Array = np.ndarray[Any, Any]
Statistics = Mapping[str, Array]
Result = float | Mapping[Any, float]
MOST_RECORDS = 20_000_000
"""Records that a metric of whole records keeps at most."""


class Metric(ABC):
    """A measurement of predictions whose statistics add.

    reads: the fields of the task's predictions that it looks at; keep: `sums` where what `count` gives is added, `records`
    where no small statistic tells the result (such as ranks among all records), so that the rows of all records are kept
    until the end, each once, in one order; name: what it is called in a list of metrics.
    """

    reads: ClassVar[tuple[str, ...]] = ("label",)
    keep: ClassVar[Literal["sums", "records"]] = "sums"

    @property
    def name(self) -> str:
        """The name of its class, in words."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    @abstractmethod
    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        """Statistics of a batch by name: of any shape (where two batches differ in it, the shorter has zeros), zeros or no
        rows for none.

        prediction: fields [records, ...]; target: [records, ...]; mask: which entries of the target count (None: all).
        """

    @abstractmethod
    def finish(self, totals: Statistics) -> Result:
        """The result of the statistics of all records: a number, or several by name (or by the number of a class)."""

    def panel(self, totals: Statistics) -> dict[str, Any] | None:  # noqa: ARG002
        """What a report shows of it (see `mapsto.tasks.panels`), if anything."""
        return None


def quotient(part: Any, whole: Any) -> float:
    """part / whole, not a number where there is nothing to divide by."""
    return float(part / whole) if whole else float("nan")


class Tally:
    """The statistics of metrics, by the number of the micro-shard that they were counted of."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self.metrics = metrics
        self._parts: dict[int, dict[str, dict[str, list[Array]]]] = {}

    @property
    def reads(self) -> set[str]:
        """The fields of predictions that some metric looks at."""
        return {field for metric in self.metrics.values() for field in metric.reads}

    def count(self, part: int, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> None:
        """Add what a batch tells. Raises DataError naming a field of the prediction that is not there."""
        for name, metric in self.metrics.items():
            for field in metric.reads:
                if field not in prediction:
                    raise DataError(f"metrics.{name}: the task predicts no {field!r}; {nearest(field, prediction)}")
            known = self._parts.setdefault(part, {}).setdefault(name, {})
            for key, value in metric.count({f: prediction[f] for f in metric.reads}, target, mask).items():
                self._add(name, metric, known.setdefault(key, []), np.asarray(value))

    def _add(self, name: str, metric: Metric, known: list[Array], value: Array) -> None:
        if metric.keep == "records":
            known.append(value)
            if sum(map(len, known)) > MOST_RECORDS:
                raise DataError(f"metrics.{name}: it keeps every record, and there are more than {MOST_RECORDS:,}")
            return
        value = value.astype(np.float64) if value.dtype.kind == "f" else value.astype(np.int64)
        known[:] = [plus(known[0], value) if known else value]

    def state(self) -> dict[int, dict[str, dict[str, Array]]]:
        """What was counted, for the other ranks."""
        return {
            part: {name: {k: _joined(self.metrics[name], v) for k, v in found.items()} for name, found in counted.items()}
            for part, counted in self._parts.items()
        }

    def totals(self, states: Iterable[Mapping[int, Mapping[str, Statistics]]]) -> dict[str, dict[str, Array]]:
        """The statistics of all ranks' micro-shards, each once, added in their order."""
        parts = {part: counted for state in states for part, counted in state.items()}
        found: dict[str, dict[str, list[Array]]] = {name: {} for name in self.metrics}
        for _, counted in sorted(parts.items()):
            for name, statistics in counted.items():
                for key, value in statistics.items():
                    found[name].setdefault(key, []).append(value)
        return {name: {key: _joined(self.metrics[name], v) for key, v in got.items()} for name, got in found.items()}

    def results(self, totals: Mapping[str, Statistics], labels: Sequence[str] | None = None) -> dict[str, float]:
        """The numbers of all metrics by name: `f1`, or `f1.cat` of one that gives several; labels: names of classes."""
        found: dict[str, float] = {}
        for name, metric in self.metrics.items():
            if totals[name]:
                found |= named(name, metric.finish(totals[name]), labels)
        return found

    def panels(self, totals: Mapping[str, Statistics]) -> list[dict[str, Any]]:
        """What the metrics show."""
        shown = [metric.panel(totals[name]) for name, metric in self.metrics.items() if totals[name]]
        return [panel for panel in shown if panel is not None]


def _joined(metric: Metric, values: Sequence[Array]) -> Array:
    if metric.keep == "records":
        return np.concatenate(values)
    total = values[0]
    for value in values[1:]:
        total = plus(total, value)
    return total


def plus(one: Array, other: Array) -> Array:
    """The sum of two arrays of as many axes; where one is shorter, as a class was not met yet, it has zeros."""
    if one.shape == other.shape:
        return np.asarray(one + other)
    total = np.zeros(np.maximum(one.shape, other.shape), np.result_type(one, other))
    for array in (one, other):
        total[tuple(map(slice, array.shape))] += array
    return total


def named(name: str, result: Any, labels: Sequence[str] | None = None) -> dict[str, float]:
    """The numbers of a result by name; several of them by key, place or, of classes, label."""
    if isinstance(result, Mapping):
        return {k: v for key, value in result.items() for k, v in named(f"{name}.{_label(key, labels)}", value, labels).items()}
    array = np.asarray(result, dtype=float)
    if not array.ndim:
        return {name: float(array)}
    return {k: v for i, value in enumerate(array) for k, v in named(f"{name}.{_label(i, labels)}", value).items()}


def _label(key: Any, labels: Sequence[str] | None) -> str:
    return labels[key] if isinstance(key, int) and labels is not None and key < len(labels) else str(key)


def by_name(metrics: Mapping[str, Any] | Sequence[Any] | None) -> dict[str, Any]:
    """Metrics by name; those of a list have names of their own. Raises SpecError where two share one, or one is none."""
    if metrics is None or isinstance(metrics, Mapping):
        found = dict(metrics or {})
    else:
        found = {}
        for metric in metrics:
            name = _own_name(metric)
            if name in found:
                raise SpecError(f"metrics: two are called {name!r}; name them: metrics: {{first: ..., second: ...}}")
            found[name] = metric
    for name, metric in found.items():
        if not (callable(metric) or is_counting(metric)):
            raise SpecError(f"metrics.{name}: a {type(metric).__name__} is no metric; see docs/kinds/metric.md")
    return found


def is_counting(metric: Any) -> bool:
    """Whether a metric gives statistics that add, rather than pairs of a batch or sums of its own."""
    return hasattr(metric, "count") and hasattr(metric, "finish")


def _own_name(metric: Any) -> str:
    if is_counting(metric) and isinstance(getattr(metric, "name", None), str):
        return str(metric.name)
    function = metric.func if isinstance(metric, functools.partial) else metric
    return str(getattr(function, "__name__", type(metric).__name__))
