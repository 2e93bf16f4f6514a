"""Several sources mixed by weight, with no state but the position."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest
from ..core.laws import example
from ..core.random import derive
from ..core.ranges import Count, Whole
from ..core.registry import decorator
from .combine import Concatenated
from .doors import typed
from .order import Sequential, Shuffled
from .reader import Batches
from .source import Indices

LARGEST_BLOCK = 1 << 16


class Interleaved:
    """Maps positions to indices into sources laid one after another, in exact proportions within each block.

    A block is the smallest number of records in which every share is whole (`weights=(3, 1)`: 4 records), or 65536
    with shares rounded by largest remainder. Within a block the sources alternate evenly, in a fixed pattern. The n-th
    record drawn from a source stands at n of its own shuffled stream, which goes through the source again and again: no
    record of a source is seen twice before all of it was seen once, across the epochs of the mixture too.
    """

    def __init__(
        self, counts: Sequence[int], weights: Sequence[float], records: int | None = None, shuffle: bool = True, seed: int = 0
    ) -> None:
        if len(weights) != len(counts):
            raise DataError(f"weights: {len(weights)} weights were given for {len(counts)} sources")
        if any(not (math.isfinite(w) and w >= 0) for w in weights) or not any(weights):
            raise DataError(f"weights: {list(weights)} must be finite, not negative, and not all zero")
        self.counts, self.records = list(counts), sum(counts) if records is None else records
        self.shares = _shares(weights)
        self.orders = [Shuffled(n, derive(seed, "mixture", i)) if shuffle else Sequential(n) for i, n in enumerate(self.counts)]
        self.starts = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        keys = np.concatenate([(np.arange(share) + 0.5) / share for share in self.shares if share])
        owners = np.concatenate([np.full(share, i) for i, share in enumerate(self.shares) if share])
        self.pattern = owners[np.argsort(keys, kind="stable")]
        self.rank = np.empty(len(self.pattern), np.int64)
        for i, share in enumerate(self.shares):
            self.rank[self.pattern == i] = np.arange(share)

    def __len__(self) -> int:
        return self.records

    def __call__(self, epoch: int, positions: Indices) -> Indices:
        block, place = np.divmod(positions + epoch * self.records, len(self.pattern))
        owners, found = self.pattern[place], np.empty(len(positions), np.int64)
        for i, share in enumerate(self.shares):
            here = np.flatnonzero(owners == i)
            if len(here):
                own_epoch, own = np.divmod(block[here] * share + self.rank[place[here]], self.counts[i])
                for e in np.unique(own_epoch).tolist():
                    at = own_epoch == e
                    found[here[at]] = self.starts[i] + self.orders[i](e, own[at])
        return found


def _shares(weights: Sequence[float]) -> list[int]:
    """Records of each source in a block: weights as whole numbers, exactly where a block stays small enough."""
    exact = [Fraction(str(w)) for w in weights]
    scale = math.lcm(*(f.denominator for f in exact))
    whole = [int(f * scale) for f in exact]
    whole = [w // math.gcd(*whole) for w in whole]
    total = sum(whole)
    if total <= LARGEST_BLOCK:
        return whole
    ideal = [Fraction(w * LARGEST_BLOCK, total) for w in whole]
    shares = [int(f) for f in ideal]
    rest = sorted(range(len(ideal)), key=lambda i: (shares[i] - ideal[i], i))
    for i in rest[: LARGEST_BLOCK - sum(shares)]:
        shares[i] += 1
    return shares


@decorator("reader")("mixture")
class Mixture(Batches):
    """Maps a position to a batch of several sources mixed by weight, in exact proportions (see `Interleaved`).

    sources, weights: two lists, or two mappings with the same keys; records: the length of an epoch (default: all
    sources' records together); shuffle: each source by itself; other arguments as for `batches`. Raises DataError.
    """

    @typed
    def __init__(
        self,
        sources: Any,
        weights: Any,
        batch_size: Count,
        *,
        records: Count | None = None,
        shuffle: bool = True,
        transforms: Any = (),
        bucket_by: str | Callable[..., Any] | None = None,
        window: Count = 100,
        drop_last: bool = False,
        workers: Whole = 0,
        prefetch: Count = 2,
        seed: int = 0,
    ) -> None:
        joined, shares = _paired(sources, weights)
        source = Concatenated(joined)
        super().__init__(
            source,
            batch_size,
            order=Interleaved(source.counts, shares, records, shuffle, seed),
            transforms=transforms,
            bucket_by=bucket_by,
            window=window,
            drop_last=drop_last,
            workers=workers,
            prefetch=prefetch,
            seed=seed,
        )


example(Mixture, tags={"repeats"})  # an epoch takes so many records of each, and the next goes on from there


def _paired(sources: Any, weights: Any) -> tuple[list[Any], list[float]]:
    """Sources and weights in one order. Raises DataError where they do not match."""
    if isinstance(sources, Mapping) != isinstance(weights, Mapping):
        raise DataError("sources, weights: give two lists, or two mappings with the same keys")
    if not isinstance(sources, Mapping):
        return list(sources), list(weights)
    for key in set(sources) ^ set(weights):
        there, other = ("weights", sources) if key in weights else ("sources", weights)
        raise DataError(f"{there}: {key!r} has no counterpart; {nearest(str(key), map(str, other))}")
    return [sources[k] for k in sources], [weights[k] for k in sources]
