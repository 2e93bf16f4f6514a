"""The search for the largest micro-batch that fits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .timeline import Timeline

LIMIT = 1 << 24
"""Records beyond which nobody asks."""


class Trend:
    """Timelines of steps by their number of records, and what they foretell of others.

    Each change of memory is a line in the number of records, as long as a step does the same things; so two steps tell the
    number at which some moment of a step reaches a limit. A third is compared with what the two foretold.
    """

    def __init__(self, known: Mapping[int, Timeline]) -> None:
        self.known: dict[int, Timeline] = {}
        self.straight = True
        for records, timeline in known.items():
            self.add(records, timeline)

    def add(self, records: int, timeline: Timeline) -> None:
        """One more step, which must stand on the line of those before it; if it does not, nothing is foretold any more."""
        if len(self.known) > 1 and self.straight:
            (n1, one), (n2, two) = list(self.known.items())[-2:]
            found = together(one, two, timeline)
            if found is None:
                self.straight = False
            else:
                factor = (records - n1) / (n2 - n1)
                off = np.abs(found[0] + factor * (found[1] - found[0]) - found[2])
                self.straight = bool(off.max() < 1)
        self.known[records] = timeline

    def crossing(self, limit: int) -> int | None:
        """The largest number that is foretold to fit (0: none); None where nothing is foretold."""
        if len(self.known) < 2 or not self.straight:
            return None
        (n1, one), (n2, two) = list(self.known.items())[-2:]
        found = together(one, two)
        if found is None:
            return None
        slopes = (found[1] - found[0]) / (n2 - n1)
        if (found[1] - slopes * n2 > limit).any():
            return 0
        rising = slopes > 0
        if not rising.any():
            return LIMIT
        return int(min(np.floor(n2 + (limit - found[1][rising]) / slopes[rising]).min(), LIMIT))

    def ends(self, low: int, limit: int) -> bool:
        """Whether it is sure that `low`, of which a step is known and fits, is the last that does."""
        if len(self.known) < 3 or not self.straight:
            return False
        near = min((n for n in self.known if n != low), key=lambda n: abs(n - low))
        found = together(self.known[near], self.known[low])
        return found is not None and bool((found[1] + (found[1] - found[0]) / (low - near)).max() > limit)


def together(*timelines: Timeline) -> list[Any] | None:
    """Bytes alive when something was made (float64), of what the timelines have in common: all but what some do at first.

    What is freed together is in order of its size, which is another for other numbers of records, so that a moment within is no
    moment of the other; none is a peak. None where the timelines do not do the same.
    """
    made = [np.flatnonzero(one.changes[:, 1] > 0) for one in timelines]
    count = min(map(len, made))
    made = [places[len(places) - count :] for places in made]
    kinds = [one.changes[places, 0] for one, places in zip(timelines, made, strict=True)]
    if not count or any((kind != kinds[0]).any() for kind in kinds):
        return None
    return [one.totals()[places].astype(np.float64) for one, places in zip(timelines, made, strict=True)]


def largest(peak: Callable[[int], int], limit: int, known: dict[int, int], trend: Trend | None = None) -> int:
    """The largest number of records whose peak is at most `limit`; 0 where not even one record fits.

    peak: records -> bytes, which never falls; known: values of it, at least one. trend: what is known of the steps, which
    grows as they are asked for; it tells the number at once where memory grows in proportion. Else a bracket is closed by the
    line through two known points, or bisected.
    """
    known = dict(known)
    for turn in itertools.count(1):
        low = max((n for n, value in known.items() if value <= limit), default=0)
        high = min((n for n, value in known.items() if value > limit), default=LIMIT)
        if high - low <= 1 or (low and trend is not None and trend.ends(low, limit)):
            break
        foretold = None if trend is None else trend.crossing(limit)
        if foretold is not None and foretold not in known:
            guess = foretold
        elif len(known) == 1:
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
