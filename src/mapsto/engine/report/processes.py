"""What the page shows of processes and parameters: times by rank, memory, how far each parameter moves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from ..figures import number
from ..record import RunRecord, as_float
from . import charts

PER_PARAMETER = ("train/update_ratio/", "train/gradient_norm/")
"""Metrics of the middleware `health`: a table has room for them, charts have not."""
RANK_TIMES = {
    "step": ("step, by rank", "milliseconds; all ranks of a step that meet take equally long"),
    "data": ("waiting for data, by rank", "milliseconds a step"),
    "busy": ("own passes, by rank", "milliseconds a step before a rank meets the others: they wait for the longest"),
    "cpu": ("time of the processor, by rank", "milliseconds a step, all threads"),
}
Chart = Callable[..., dict[str, Any]]


def rank_charts(record: RunRecord, chart: Chart) -> list[dict[str, Any]]:
    """A chart of each time by rank: a line a rank, or of many the slowest, the median and the fastest."""
    found = []
    for name, (title, note) in RANK_TIMES.items():
        rows = [(event["step"], by_rank(event, name)) for event in record.events if event.get("name") == "log"]
        rows = [(step, values) for step, values in rows if len(values) > 1]
        if rows and any(any(values) for _, values in rows):
            series = _lines([(step, [v * 1e3 for v in values]) for step, values in rows])
            found.append(chart(title, series, note=note, zero=True))
    return found


def by_rank(event: dict[str, Any], name: str) -> list[float]:
    """What a log tells of each rank, or nothing."""
    ranks = (event.get("detail") or {}).get("ranks") or {}
    return [as_float(value) for value in ranks.get(name) or ()]


def _lines(rows: Sequence[tuple[int, list[float]]]) -> list[charts.Series]:
    world = len(rows[-1][1])
    if world <= charts.SERIES:
        kept = [(step, values) for step, values in rows if len(values) == world]  # an elastic run had others before
        return [charts.Series(f"rank {r}", [(step, values[r]) for step, values in kept], r) for r in range(world)]
    of = {"slowest": max, "median": statistics.median, "fastest": min}
    return [
        charts.Series(label, [(step, float(take(values))) for step, values in rows], color)  # type: ignore[operator]
        for color, (label, take) in enumerate(of.items())
    ]


def memory_chart(record: RunRecord, chart: Chart) -> dict[str, Any] | None:
    """Memory of the process and of the device."""
    labels = {"memory/resident": "process (of several ranks the most)", "memory/device": "device"}
    found = [
        charts.Series(label, [(step, value / 1e6) for step, value in record.series[name]], color)
        for color, (name, label) in enumerate(labels.items())
        if record.series.get(name)
    ]
    if not found:
        return None
    return chart("memory", found, note="MB", zero=True)


def parameters(record: RunRecord) -> list[dict[str, str]]:
    """A row a parameter, in the model's order: the median of its update's length over its own, and of its gradient's."""
    medians: dict[str, list[str]] = {}
    for place, begin in enumerate(PER_PARAMETER):
        for name, points in record.series.items():
            values = [value for _, value in points if value == value]
            if name.startswith(begin) and values:
                medians.setdefault(name.removeprefix(begin), ["", ""])[place] = number(statistics.median(values))
    return [{"name": name, "ratio": ratio, "gradient": gradient} for name, (ratio, gradient) in medians.items()]
