"""Records as a source gives them, read for a bounded time: those that occur twice, and those that two sets share."""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...core.random import generator
from ...data.source import Batch, Indices
from ..fingerprint import digest_of
from .fields import array_of
from .summary import Overlap, Repeats

CHUNK, BYTES, MOST = 4096, 32 << 20, 1 << 18
"""Records, and bytes, that are read at once at most; records that are read in all at most."""
EXAMPLES = 5
clock = time.perf_counter


def numbers_of(reader: Any, seed: int) -> Indices:
    """The numbers of the records that an epoch of a reader holds, ascending; of very many a random part."""
    count = len(reader.source)
    if count in (reader.records, len(reader.order)):
        if count <= MOST:
            return np.arange(count, dtype=np.int64)
        return np.unique(generator(seed, "survey", "numbers").integers(0, count, MOST))
    every = range(min(reader.batches_per_epoch, max(MOST // reader.batch_size, 1)))
    return np.unique(np.concatenate([reader.indices(position) for position in every]))


def drawn(numbers: Indices, seed: int, first: Indices | None = None) -> Indices:
    """The numbers in a random sequence, those of `first` before the others."""
    mixed: Indices = numbers[generator(seed, "survey").permutation(len(numbers))]
    if first is None or not len(first):
        return mixed
    early = np.isin(mixed, first)
    return np.concatenate([mixed[early], mixed[~early]])


def read(source: Any, wanted: Indices, seconds: float) -> Iterator[tuple[Indices, Batch]]:
    """Chunks of records, each with their numbers, until so many seconds are spent; the first are small, to learn the pace."""
    size, at, began = 4, 0, clock()
    while at < len(wanted):
        left = seconds - (clock() - began)
        if at and left <= 0:
            return
        chunk = np.sort(wanted[at : at + size])
        started = clock()
        batch = source[chunk]
        each = (clock() - started) / len(chunk)
        yield chunk, batch
        at += len(chunk)
        size = min(2 * size, CHUNK, max(BYTES // max(_bytes(batch) // len(chunk), 1), 1), max(int(left / max(each, 1e-9)), 1))


def _bytes(batch: Mapping[str, Any]) -> int:
    """About how much memory a batch holds."""
    return sum(int(getattr(value, "nbytes", 0)) or sum(map(_weight, value)) for value in batch.values())


def _weight(value: Any) -> int:
    return int(getattr(value, "nbytes", 0)) or (len(value) if hasattr(value, "__len__") else 8)


def digests(values: Sequence[Any], count: int) -> list[bytes]:
    """One digest a record of the values of some fields."""
    parts = [_rows(value) for value in values]
    found = []
    for i in range(count):
        made = hashlib.blake2b(digest_size=8)
        for rows in parts:
            made.update(rows[i])
        found.append(made.digest())
    return found


def _rows(value: Any) -> Sequence[bytes]:
    array = array_of(value)
    if array is not None and len(array):
        held = np.ascontiguousarray(array).tobytes()
        size = len(held) // len(array)
        return [held[i * size : (i + 1) * size] for i in range(len(array))]
    return [digest_of(one).encode() for one in value]


class Gathered:
    """The records of one set that were read: their numbers, and digests of their input and target."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.inputs: list[bytes] = []
        self.targets: list[bytes] = []
        self._distinct: set[bytes] = set()
        self._columns: list[set[Any]] = []
        self._text = 0.0
        self._weighed = 0

    def add(self, numbers: Indices, inputs: Sequence[Any], target: Any) -> None:
        """Records, by the values of their input fields and their target (or None)."""
        found = digests(inputs, len(numbers))
        self.numbers += numbers.tolist()
        self.inputs += found
        if target is not None:
            self.targets += digests([target], len(numbers))
        if self._weighed < CHUNK:
            new = [i for i, digest in enumerate(found[:256]) if digest not in self._distinct]
            self._distinct.update(found[:256])
            self._weigh(inputs, new)

    def _weigh(self, inputs: Sequence[Any], rows: list[int]) -> None:
        """Remember what the columns of some records hold, and how long their texts are, for `bits`."""
        self._weighed += len(rows)
        columns = 0
        for value in inputs:
            array = array_of(value)
            if array is None:
                self._text += sum(len(value[i]) if hasattr(value[i], "__len__") else 8 for i in rows)
                continue
            held = array.reshape(len(array), -1)[rows, :128]
            for column in held.T.tolist():
                if len(self._columns) <= columns:
                    self._columns.append(set())
                self._columns[columns].update(column)
                columns += 1

    def bits(self) -> float:
        """About how much a record can say: of a column the logarithm of its distinct values (24 where most differ), of text
        three bits a character. Where that is little, records are equal by chance."""
        seen = max(self._weighed, 1)
        sizes = (len(held) for held in self._columns)
        return sum(24.0 if 2 * n > seen > 1 else math.log2(max(n, 1)) for n in sizes) + 3.0 * self._text / seen

    def repeats(self) -> Repeats | None:
        """Records whose input another one has too."""
        first: dict[bytes, int] = {}
        pairs: list[tuple[int, int]] = []
        repeated = contrary = 0
        for i, digest in enumerate(self.inputs):
            before = first.setdefault(digest, i)
            if before == i:
                continue
            repeated += 1
            contrary += bool(self.targets) and self.targets[i] != self.targets[before]
            if len(pairs) < EXAMPLES:
                low, high = sorted((self.numbers[before], self.numbers[i]))
                pairs.append((low, high))
        if not self.inputs:
            return None
        alike = sum(n for n in Counter(self.inputs).values() if n > 1) if repeated else 0
        return Repeats(len(self.inputs), repeated, alike, contrary, round(self.bits(), 1), pairs)

    def overlap(self, train: Gathered, held: int) -> Overlap | None:
        """Records of this set whose input is among the training records that were read, of `held` that there are."""
        if not self.inputs or not train.inputs:
            return None
        there = dict(zip(train.inputs, train.numbers, strict=True))
        found = [(number, there[d]) for number, d in zip(self.numbers, self.inputs, strict=True) if d in there]
        return Overlap(len(self.inputs), len(found), len(train.inputs), held, found[:EXAMPLES])
