"""The search for the largest micro-batch that fits."""

from __future__ import annotations

import itertools
from collections.abc import Callable

LIMIT = 1 << 24
"""Records beyond which nobody asks."""


def largest(peak: Callable[[int], int], limit: int, known: dict[int, int]) -> int:
    """The largest number of records whose peak is at most `limit`; 0 where not even one record fits.

    peak: records -> bytes, which never falls; known: values of it, at least one. Where memory grows in proportion, the
    line through two known points is right at once, so a bracket is closed in a few steps; else it is bisected.
    """
    known = dict(known)
    for turn in itertools.count(1):
        low = max((n for n, value in known.items() if value <= limit), default=0)
        high = min((n for n, value in known.items() if value > limit), default=LIMIT)
        if high - low <= 1:
            break
        if len(known) == 1:
            guess = 2 * low if low else high // 2
        elif turn % 3 == 0:
            guess = (low + high) // 2 if high < LIMIT else 8 * low
        else:
            guess = _crossing(known, low, high, limit)
        guess = min(max(guess, low + 1), high - 1)
        known[guess] = peak(guess)
    return low


def _crossing(known: dict[int, int], low: int, high: int, limit: int) -> int:
    """Where the line through the ends of the bracket, or else through the two points nearest to it, reaches the limit."""
    ends = [low, high] if low in known and high in known else sorted(sorted(known, key=lambda n: abs(n - low))[:2])
    (n1, y1), (n2, y2) = ((n, known[n]) for n in ends)
    return n1 + (limit - y1) * (n2 - n1) // (y2 - y1) if y2 > y1 else 4 * n2
