"""Figures as people read them: numbers, counts and durations in a few characters."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """Four significant digits: `0.1234`, `1.2e-05`, `98.21`, `12,345`, `nan`."""
    if not math.isfinite(value):
        return str(float(value))
    if value == 0:
        return "0"
    if abs(value) >= 1000 or (value == int(value) and abs(value) < 1e15):
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3e}"
    return f"{value:.4g}"


def count(value: float) -> str:
    """A count with its unit: `950`, `12.3k`, `1.25M`, `7.1G`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """A duration: `3.2 s`, `1:05`, `2:03:05`, `3 d 04:00`; `?` where it is not known."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02d}:{minutes:02d}"
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


def short_time(seconds: float) -> str:
    """The time of something short: `812 us`, `3.41 ms`, `1.2 s`."""
    for limit, unit in ((1.0, "s"), (1e-3, "ms")):
        if abs(seconds) >= limit:
            return f"{seconds / limit:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def size(amount: float) -> str:
    """Bytes: `812 B`, `1.2 kB`, `34.5 MB`."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if amount >= limit:
            return f"{amount / limit:.3g} {unit}"
    return f"{amount:.0f} B"


def share(value: float) -> str:
    """A share of one as a percentage: `3 %`, `0.4 %`."""
    return f"{value * 100:.0f} %" if value >= 0.0095 or value == 0 else f"{value * 100:.1g} %"
