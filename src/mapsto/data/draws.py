"""Orders that draw records by a field of them: by weight, each class equally often, the easy ones first.

They are arithmetic like other orders, (seed, epoch, position) -> record, over what is read of the source once: a number a
record. A record may stand in an epoch several times, or not at all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError
from ..core.laws import example
from ..core.random import GOLDEN, derive
from ..core.ranges import Count, Share
from ..core.registry import decorator
from .doors import typed
from .mixture import Interleaved
from .order import Shuffled
from .source import Indices
from .splits import codes_of, field_of_all, ranks_of


class _Draw:
    """An order that reads a field of the source. `records` is the length of an epoch, by default that of the source."""

    repeats = True

    def __init__(self, records: int | None, seed: int | None) -> None:
        self.records, self.seed = records, seed
        self._ready = False

    def over_source(self, source: Any, records: int, seed: int) -> Self:
        """This order over the first `records` of a source, with its open length and seed filled in."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__, _ready=True)
        made.records = records if self.records is None else self.records
        made.seed = seed if self.seed is None else self.seed
        made._read(source, records)
        return made

    def _read(self, source: Any, count: int) -> None:
        raise NotImplementedError

    def _draw(self, epoch: int, positions: Indices) -> Indices:
        raise NotImplementedError

    def __len__(self) -> int:
        if not self._ready or self.records is None:
            raise DataError("this order draws by a field of the source, which the reader gives it")
        return self.records

    def __call__(self, epoch: int, positions: Indices) -> Indices:
        len(self)
        return self._draw(epoch, positions)


@decorator("order")("weighted")
class Weighted(_Draw):
    """Maps positions to records drawn with replacement, each as often as its weight says.

    weights: a field of numbers of at least 0, or a list, one a record; records: of an epoch (default: as many as the source
    has). A position's draw is a hash of (seed, epoch, position), looked up among the summed weights: memory for a number a
    record, time for a binary search. Raises DataError for weights that are negative, not finite, all 0 or not one a record.
    """

    @typed
    def __init__(self, weights: str | Sequence[float], records: Count | None = None, seed: int | None = None) -> None:
        super().__init__(records, seed)
        self.weights = weights

    def _read(self, source: Any, count: int) -> None:
        if isinstance(self.weights, str):
            found = field_of_all(source, self.weights, count, "weighted: weights")
            if isinstance(found, list) or found.dtype.kind not in "iufb":
                raise DataError(f"weighted: field {self.weights!r} holds no numbers, so it cannot be weights")
        else:
            found = np.asarray(self.weights)
            if len(found) != count:
                raise DataError(f"weighted: {len(found)} weights were given for {count} records")
        weights = found.astype(np.float64)
        wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if len(wrong):
            raise DataError(
                f"weighted: the weight of record {wrong[0]} is {weights[wrong[0]]}, and one of at least 0 is wanted"
            )
        self._sums = np.cumsum(weights)
        if not 0 < self._sums[-1] < math.inf:
            raise DataError(f"weighted: the weights of {count} records sum to {self._sums[-1]}, so there is nothing to draw by")

    def _draw(self, epoch: int, positions: Indices) -> Indices:
        share = _uniform(derive(self.seed or 0, "weighted", epoch), positions)
        found: Indices = np.searchsorted(self._sums, share * self._sums[-1], side="right").astype(np.int64)
        return found


def _uniform(key: int, positions: Indices) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each position: 53 bits of SplitMix64 (Steele, Lea & Flood 2014) at that place of its stream."""
    x = np.uint64(key) + np.uint64(GOLDEN) * (positions.astype(np.uint64) + np.uint64(1))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@decorator("order")("balanced")
class Balanced(_Draw):
    """Maps positions to records such that each value of a field is drawn equally often, one after another.

    by: the field, such as the class; records: of an epoch (default: as many as the source has). Of each class the records
    come in a shuffled order of their own, which begins anew when it is through, across epochs too: no record of a class stands
    twice before all have stood once. Raises DataError where the field does not hold one value a record.
    """

    @typed
    def __init__(self, by: str = "target", records: Count | None = None, seed: int | None = None) -> None:
        super().__init__(records, seed)
        self.by = by

    def _read(self, source: Any, count: int) -> None:
        codes, names = codes_of(field_of_all(source, self.by, count, "balanced: by"))
        self._places = np.argsort(codes, kind="stable")
        sizes = np.bincount(codes, minlength=len(names)).tolist()
        self._classes = Interleaved(sizes, [1] * len(sizes), self.records, seed=derive(self.seed or 0, "balanced"))

    def _draw(self, epoch: int, positions: Indices) -> Indices:
        return self._places[self._classes(epoch, positions)]


@decorator("order")("curriculum")
class Curriculum(_Draw):
    """Maps positions to the easy records first: in an epoch those of a share of all that have the smallest values of a field.

    by: the field (numbers, dates, text), such as a length; start: the share in epoch 0, which grows evenly to 1 in epoch
    `until`, or share: a function of the epoch to say it all; hardest: `last` (default), or `first` to begin with the largest
    values. An epoch has `records` (default: as many as the source), so that a small share is gone through several times, in
    another order each. Raises DataError where the field has no order, or a share is not above 0.
    """

    @typed
    def __init__(
        self,
        by: str,
        start: Share = 0.25,
        until: Count = 10,
        share: Callable[[int], float] | None = None,
        hardest: Literal["last", "first"] = "last",
        records: Count | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(records, seed)
        self.by, self.start, self.until, self.share, self.hardest = by, start, until, share, hardest
        self._orders = functools.lru_cache(maxsize=4)(Shuffled)

    def _read(self, source: Any, count: int) -> None:
        ranks = ranks_of(field_of_all(source, self.by, count, "curriculum: by"), f"curriculum: by={self.by!r}")
        self._places = np.argsort(ranks if self.hardest == "last" else -ranks, kind="stable")

    def count(self, epoch: int) -> int:
        """How many records may stand in an epoch. Raises DataError where the share is not above 0."""
        share = self.share(epoch) if self.share is not None else self.start + (1 - self.start) * epoch / self.until
        if not share > 0:
            raise DataError(f"curriculum: the share of epoch {epoch} is {share}, and one above 0 is wanted")
        return max(round(min(share, 1.0) * len(self._places)), 1)

    def _draw(self, epoch: int, positions: Indices) -> Indices:
        among = self.count(epoch)
        order = self._orders(among, derive(self.seed or 0, "curriculum", epoch))
        rounds, places = np.divmod(positions, among)
        found = np.empty(len(positions), np.int64)
        for number in np.unique(rounds).tolist():
            here = rounds == number
            found[here] = order(number, places[here])
        return self._places[found]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_orders"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _orders=functools.lru_cache(maxsize=4)(Shuffled))


def _weighted(records: int) -> Any:
    weights = 1.0 + np.arange(records) % 3
    return records * weights / weights.sum()


def _balanced(records: int) -> Any:
    sizes = np.bincount(fifth := (np.arange(records) % 5 == 0).astype(np.int64))
    return records / ((sizes > 0).sum() * sizes[fifth])


example(Weighted, args={"weights": "weight"}, tags={"repeats", "stored"}, frequency=_weighted)
example(Balanced, args={"by": "fifth"}, tags={"repeats", "stored"}, frequency=_balanced)
example(
    Curriculum, args={"by": "id", "start": 1.0}, tags={"repeats", "stored"}, frequency=np.ones
)  # of the share 1 it is a permutation
