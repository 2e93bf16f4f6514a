"""The page of several runs: their figures side by side, their curves overlaid, and where their specs differ."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..figures import count, duration, number
from ..record import RunRecord
from . import charts
from .view import APART, line_chart

ABSENT = "-"


def compared(records: Sequence[RunRecord]) -> dict[str, Any]:
    """What `comparison.html.j2` shows of several runs."""
    labels = labelled(records)
    names = (n for r in records for n in r.series if not n.startswith((*APART, "train/")))
    columns = list(dict.fromkeys(names))[:6]
    return {
        "columns": [f"best {n}" for n in columns],
        "runs": rows(records, labels, columns),
        "charts": overlaid(records, labels),
        "differences": differing([r.spec for r in records]),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def labelled(records: Sequence[RunRecord]) -> list[str]:
    """A label a run: its folder's name, the whole path where two share it."""
    names = [r.folder.resolve().name for r in records]
    return [n if names.count(n) == 1 else str(r.folder) for n, r in zip(names, records, strict=True)]


def best_value(record: RunRecord, name: str) -> float | None:
    """The best finite value of a metric: the least of a loss or an error, the most of what grows with quality."""
    values = [v for _, v in record.series.get(name, []) if math.isfinite(v)]
    return (min(values) if falls(record, name) else max(values)) if values else None


def falls(record: RunRecord, name: str) -> bool:
    """Whether less of a metric is better: as the spec says of the one it tracks, else by the field's usual names."""
    metric, mode = record.tracked
    if name == metric:
        return mode == "min"
    return any(word in name.lower() for word in ("loss", "error", "perplexity", "mse", "mae", "rmse", "distance"))


def rows(records: Sequence[RunRecord], labels: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The table's rows; the best of each column is marked."""
    table = [[best_value(r, n) for n in columns] for r in records]
    winners = []
    for index, name in enumerate(columns):
        values = [v for row in table if (v := row[index]) is not None]
        winners.append((min if falls(records[0], name) else max)(values) if len(values) > 1 else None)
    found = []
    for number_, (record, label) in enumerate(zip(records, labels, strict=True)):
        speeds = [v for _, v in record.series.get("throughput/records", []) if math.isfinite(v)]
        cells = [
            {"text": ABSENT if v is None else number(v), "best": v is not None and v == w, "delta": _delta(v, first)}
            for v, w, first in zip(table[number_], winners, table[0] if number_ else [None] * len(columns), strict=True)
        ]
        found.append(
            {
                "label": label,
                "color": number_ % charts.SERIES,
                "status": record.status,
                "cells": cells,
                "steps": f"{record.steps:,}",
                "duration": duration(record.seconds) if record.seconds else ABSENT,
                "speed": count(statistics.median(speeds)) if speeds else ABSENT,
            }
        )
    return found


def _delta(value: float | None, first: float | None) -> str:
    """How far a value is from that of the first run."""
    return "" if value is None or first is None else f"{value - first:+.3g}" if value != first else "±0"


def overlaid(records: Sequence[RunRecord], labels: Sequence[str]) -> list[dict[str, Any]]:
    """One chart a metric, one line a run; evaluations before training, losses first. A single value is told by the table."""
    names = list(dict.fromkeys(n for r in records for n in r.series if not n.startswith(APART) or n == "throughput/records"))
    names.sort(key=lambda n: (n == "throughput/records", not n.endswith("/loss"), n.startswith("train/")))
    found = []
    for name in names:
        series = [
            charts.Series(label, record.series[name], i)
            for i, (record, label) in enumerate(zip(records, labels, strict=True))
            if any(math.isfinite(v) for _, v in record.series.get(name, []))
        ]
        if any(len(one.points) > 1 for one in series):
            found.append(line_chart(name, series, zero=name == "throughput/records"))
    return found


def differing(specs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(path, the value in each) of every leaf in which the specs differ."""
    leaves = [dict(walk(spec, "")) for spec in specs]
    paths = dict.fromkeys(path for each in leaves for path in each)
    found = [(path, [_said(each[path]) if path in each else ABSENT for each in leaves]) for path in paths]
    return [(path, values) for path, values in found if len(set(values)) > 1]


def walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The leaves of plain data by their path; a part of a list is called by its name."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from walk(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for i, inner in enumerate(value):
            name = inner.get("use", i) if isinstance(inner, Mapping) else i
            yield from walk(inner, f"{path}.{name}")
    else:
        yield path, value


def _said(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 120 else text[:117] + "…"
