"""Curves with noise: medians of stretches, and how large the noise is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def stretches(values: Sequence[float], most: int = 10) -> list[float]:
    """Medians of up to `most` equal stretches, each of at least two values."""
    count = max(min(most, len(values) // 2), 1)
    return [statistics.median(values[i * len(values) // count : (i + 1) * len(values) // count]) for i in range(count)]


def noise(values: Sequence[float]) -> float:
    """The standard deviation of what is no trend, from second differences (0 where there are fewer than three).

    For independent normal noise the median of |second differences| is 0.6745 sqrt(6) standard deviations.
    """
    seconds = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return statistics.median(seconds) / (0.6745 * math.sqrt(6)) if seconds else 0.0


def thirds(values: Sequence[float]) -> tuple[float, float, float]:
    """Medians of the first, middle and last third."""
    cut = len(values) // 3
    return statistics.median(values[:cut]), statistics.median(values[cut : len(values) - cut]), statistics.median(values[-cut:])
