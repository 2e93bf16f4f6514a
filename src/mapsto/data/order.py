"""Orders: (seed, epoch, position) -> record index, computed and never stored."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError
from ..core.random import derive
from ..core.ranges import Count
from ..core.registry import decorator
from .doors import typed
from .source import Indices

ROUNDS, ROUNDS_SMALL = 8, 24
"""Half-rounds, and those of networks of at most 8 bits: 8 leave a measurable bias among the permutations of 5 to 7 records,
16 do not; a small network costs nothing anyway."""
_Words = npt.NDArray[np.unsignedinteger[Any]]


@decorator("order")("sequential")
class Sequential:
    """Maps positions to themselves in every epoch: the records as they lie. `records` is filled in by the reader."""

    @typed
    def __init__(self, records: Count | None = None) -> None:
        self.records = records

    def over(self, records: int, seed: int) -> Sequential:  # noqa: ARG002  # the signature that every order owes
        """This order with its open length filled in."""
        return Sequential(records if self.records is None else self.records)

    def __len__(self) -> int:
        return _length(self.records)

    def __call__(self, epoch: int, positions: Indices) -> Indices:  # noqa: ARG002
        return positions


@decorator("order")("shuffled")
class Shuffled:
    """Maps positions to record indices by a pseudo-random permutation of [0, records) for each (seed, epoch).

    A Feistel network (Luby & Rackoff 1988) over the smallest 2^b >= records, whose half-rounds `left ^= F(right)` are
    their own inverses whatever F is, so it is a bijection; cycle walking (Black & Rogaway 2002) restricts it to
    [0, records): fewer than two passes on average. O(1) memory, random access, an `inverse`; records up to 2^62.
    """

    @typed
    def __init__(self, records: Count | None = None, seed: int | None = None) -> None:
        self.records = records
        self.seed = seed
        if records is not None and records > 1 << 62:
            raise DataError(f"shuffled: {records} records cannot be shuffled; 2^62 can")
        self.bits = (records - 1).bit_length() if records is not None else 0
        self.rounds = ROUNDS_SMALL if self.bits <= 8 else ROUNDS
        self._keys = functools.lru_cache(maxsize=8)(self._round_keys)

    def over(self, records: int, seed: int) -> Shuffled:
        """This order with its open length and seed filled in."""
        return Shuffled(records if self.records is None else self.records, seed if self.seed is None else self.seed)

    def __len__(self) -> int:
        return _length(self.records)

    def __call__(self, epoch: int, positions: Indices) -> Indices:
        return self._walk(epoch, positions, inverse=False)

    def inverse(self, epoch: int, indices: Indices) -> Indices:
        """The positions at which records stand in an epoch."""
        return self._walk(epoch, indices, inverse=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"records": self.records, "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _walk(self, epoch: int, values: Indices, *, inverse: bool) -> Indices:
        word = np.uint32 if self.bits <= 32 else np.uint64  # half the width is more than twice as fast
        last, keys = word(len(self) - 1), self._keys(epoch)
        found = self._permute(np.asarray(values, np.int64).astype(word), keys, inverse)
        outside = np.flatnonzero(found > last)
        while len(outside):
            moved = self._permute(found[outside], keys, inverse)
            found[outside] = moved
            outside = outside[moved > last]
        return found.astype(np.int64)

    def _round_keys(self, epoch: int) -> tuple[int, ...]:
        key = derive(self.seed or 0, "order", epoch)
        return tuple(derive(key, i) for i in range(self.rounds))

    def _permute(self, values: _Words, keys: tuple[int, ...], inverse: bool) -> _Words:
        """The network over [0, 2^bits): halves of floor and ceil(bits / 2) bits, each changed by the other in turn."""
        low = self.bits // 2
        high = self.bits - low
        if high == 0:
            return values
        word = values.dtype.type
        left, right = values >> word(low), values & word((1 << low) - 1)
        scratch, shifted = np.empty_like(values), np.empty_like(values)
        for i in reversed(range(self.rounds)) if inverse else range(self.rounds):
            if i % 2 == 0:
                left ^= _hash(right, keys[i], high, scratch, shifted)
            elif low:
                right ^= _hash(left, keys[i], low, scratch, shifted)
        left <<= word(low)
        left |= right
        return left


_MULTIPLIERS = {4: (0x9E3779B1, 0x85EBCA6B), 8: (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9)}
"""Odd constants by word size: the golden ratio, and the first of MurmurHash3 (4 bytes) and of SplitMix64 (8 bytes)."""


def _hash(values: _Words, key: int, bits: int, out: _Words, shifted: _Words) -> _Words:
    """The round function: `bits` bits that depend on all of value and key (multiplied and folded, top bits taken)."""
    word, width = values.dtype.type, 8 * values.itemsize
    first, second = map(word, _MULTIPLIERS[values.itemsize])
    np.multiply(values, first, out=out)
    out ^= word(key >> (64 - width))
    np.right_shift(out, word(width // 2), out=shifted)
    out ^= shifted
    out *= second
    out >>= word(width - bits)
    return out


def _length(records: int | None) -> int:
    if records is None:
        raise DataError("this order does not know how many records it stands over; the reader fills that in")
    return records
