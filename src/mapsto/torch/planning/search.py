"""The search for the largest micro-batch that fits."""

from __future__ import annotations

from collections.abc import Callable

LIMIT = 1 << 24
"""Records beyond which nobody asks."""


def largest(peak: Callable[[int], int], limit: int, known: dict[int, int]) -> int:
    """The largest number of records whose peak is at most `limit`; 0 where not even one record fits.

    peak: records -> bytes, which never falls; known: values of it, at least one. Where memory grows in proportion, the
    line through two known points is right at once, so a bracket is closed in a few steps; else it is bisected.
    """
    known = dict(known)
    while True:
        low = max((n for n, value in known.items() if value <= limit), default=0)
        high = min((n for n, value in known.items() if value > limit), default=LIMIT)
        if high - low <= 1 or high == 0:
            return low
        guess = _crossing(known, low, limit) if len(known) % 4 else (low + high) // 2 if high < LIMIT else 4 * low
        guess = min(max(guess, low + 1), high - 1)
        known[guess] = peak(guess)


def _crossing(known: dict[int, int], low: int, limit: int) -> int:
    """Where the line through the two known points nearest to the limit reaches it."""
    if len(known) == 1:
        return 2 * low if low else next(iter(known)) // 2
    (n1, y1), (n2, y2) = sorted(sorted(known.items(), key=lambda point: abs(point[1] - limit))[:2])
    if y2 <= y1:
        return 4 * n2
    return n1 + (limit - y1) * (n2 - n1) // (y2 - y1)
