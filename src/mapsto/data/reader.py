"""The reader: source + order + transforms, cut into batches; position -> batch, purely."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Self, overload

import numpy as np

from ..core.errors import DataError, nearest
from ..core.parts import build
from ..core.random import generator
from ..core.ranges import Count, Whole
from ..core.registry import decorator, registry
from ..core.values import Part, as_part
from .adapt import as_source
from .doors import typed, whole
from .fitted import fit, learned, learns, name_of
from .order import Sequential, Shuffled
from .source import Batch, Indices, check_batch, check_fields, check_indices, record_count
from .stream import Shard, Stream

CHUNK = 16384
"""Positions whose order is computed at once: the cost of a NumPy call is spread over some dozens of batches."""


@decorator("reader")("batches")
class Batches:
    """Maps a position (global batches since the start of the run) to a batch of a source's records.

    source: any object that `as_source` takes; batch_size: records a global batch; shuffle or order: which record stands
    where; transforms: applied in turn, those that take `rng` get a generator of (seed, transform, position, shard), those that
    learn from the training records have been fitted before (a run does so; see `fit`);
    bucket_by: field (or function of a raw batch) whose lengths batches are made alike in, within `window` batches;
    drop_last: leave out an epoch's smaller last batch; limit: only the first so many records of the source;
    workers: processes that read and transform, each `prefetch` batches ahead (0: in this process, directly).
    The result depends on neither of the last two. Raises DataError.
    """

    @typed
    def __init__(
        self,
        source: Any,
        batch_size: Count,
        *,
        shuffle: bool = False,
        order: Any = None,
        transforms: Any = (),
        bucket_by: str | Callable[..., Any] | None = None,
        window: Count = 100,
        drop_last: bool = False,
        limit: Count | None = None,
        workers: Whole = 0,
        prefetch: Count = 2,
        seed: int = 0,
    ) -> None:
        self.source = as_source(source)
        self.batch_size, self.workers, self.prefetch, self.seed = batch_size, workers, prefetch, seed
        count = record_count(self.source)
        self._source_count, self._count, self._chunk = count, count if limit is None else min(limit, count), CHUNK
        self.order = _order(order, shuffle, self.source, self._count, seed)
        if limit is not None and len(self.order) > self._count:
            raise DataError(f"limit: the order has a length of its own, {len(self.order)}, which {limit} cannot change")
        if bucket_by is not None:
            from .bucket import Bucketed

            self.order = Bucketed(self.order, self.source, bucket_by, self.batch_size, window, seed)
            self._chunk = self.order.size
        self.transforms = tuple(_transforms(transforms))
        self._draws = tuple(_takes_rng(t) for t in self.transforms)
        self._names = [name_of(t) for t in self.transforms]
        self._fitted = [t for t in self.transforms if learns(t)]
        whole = len(self.order)
        self.batches_per_epoch = whole // self.batch_size if drop_last else -(-whole // self.batch_size)
        if self.batches_per_epoch == 0:
            raise DataError(f"drop_last: {whole} records are fewer than one batch of {batch_size}, so nothing is left")
        self.records = min(whole, self.batches_per_epoch * self.batch_size)
        self._cached: tuple[int, int, Indices] = (-1, 0, np.empty(0, np.int64))

    @property
    def draws(self) -> bool:
        """Whether a transform draws random numbers: then a batch depends on the micro-shards it is cut into."""
        return any(self._draws)

    def epoch(self, position: int) -> int:
        """The epoch that a position lies in."""
        return position // self.batches_per_epoch

    def indices(self, position: int) -> Indices:
        """The record indices of a global batch."""
        if type(position) is not int:
            position = whole(position, "position")
        if position < 0:
            raise DataError(f"position {position}: positions start at 0")
        epoch, offset = divmod(position, self.batches_per_epoch)
        first = offset * self.batch_size
        held, start, indices = self._cached  # one tuple, so that threads never see half of a change
        if held != epoch or not start <= first < start + len(indices):
            start, indices = self._compute(epoch, first)
            self._cached = (epoch, start, indices)
        stop = min(first + self.batch_size, self.records)
        return indices[first - start : stop - start]

    def _compute(self, epoch: int, first: int) -> tuple[int, Indices]:
        """The order of the chunk of whole batches that `first` lies in."""
        size = max(self._chunk // self.batch_size, 1) * self.batch_size
        start = first // size * size
        positions = np.arange(start, min(start + size, self.records), dtype=np.int64)
        indices = np.asarray(self.order(epoch, positions), np.int64)
        check_indices(indices, self._source_count, f"order {type(self.order).__name__} over {type(self.source).__name__}")
        return start, indices

    def batch(self, position: int, shard: int = 0, shards: int = 1) -> Batch:
        """The batch at a position: micro-shard `shard` of `shards` equal slices of the global batch (pure).

        Where the batch has fewer records than there are shards, some of them are empty.
        """
        indices = self.indices(position)
        if shards != 1:
            if not 0 <= shard < shards:
                raise DataError(f"shard {shard} of {shards}: shards are numbered 0 to {shards - 1}")
            count = len(indices)
            indices = indices[count * shard // shards : count * (shard + 1) // shards]
        for fitted in self._fitted:
            learned(fitted)
        batch: Batch = self.source[indices]
        check_batch(batch, len(indices), self.source)
        for index, transform in enumerate(self.transforms):
            drawn = {"rng": generator(self.seed, "transform", index, position, shard)} if self._draws[index] else {}
            batch = transform(batch, **drawn)
            check_fields(batch, self._names[index])
        return batch

    @property
    def source_records(self) -> int:
        """Records of the source that are read: all, or `limit`."""
        return self._count

    def fit(self) -> Self:
        """Fit the transforms that learn and have not yet, on the records of this reader, each once; the reader itself.

        Readers of other records share what was learned by sharing the transforms. Raises DataError.
        """
        fit(self)
        return self

    @overload
    def stream(self, start: int = 0, stop: int | None = None, *, shard: int = 0, shards: int = 1) -> Stream[Batch]: ...
    @overload
    def stream(
        self, start: int = 0, stop: int | None = None, *, shard: tuple[int, ...], shards: int = 1
    ) -> Stream[list[Batch]]: ...
    def stream(self, start: int = 0, stop: int | None = None, *, shard: Shard = 0, shards: int = 1) -> Stream[Any]:
        """A context manager and iterator of (position, batch) from `start` on; nothing before `start` is read.

        shard, of `shards`: one micro-shard of each global batch, or several, which come as a list.
        """
        start = whole(start, "start")
        if self.workers == 0:
            return Stream(self, start, stop, shard=shard, shards=shards)
        from .workers import WorkerStream  # only those who ask for processes load multiprocessing

        return WorkerStream(self, start, stop, shard=shard, shards=shards, workers=self.workers, prefetch=self.prefetch)

    def sequential(self) -> Batches:
        """A reader of the same records, each once and in the source's order, the remainder included: for evaluation."""
        other = copy.copy(self)
        other.order, other._chunk = Sequential(self._count), CHUNK
        other.batches_per_epoch, other.records = -(-self._count // self.batch_size), self._count
        other._cached = (-1, 0, np.empty(0, np.int64))
        return other

    def close(self) -> None:
        """Close the source where it can be closed."""
        if hasattr(self.source, "close"):
            self.source.close()


def _order(order: Any, shuffle: bool, source: Any, records: int, seed: int) -> Any:
    if order is None:
        return Shuffled(records, seed) if shuffle else Sequential(records)
    if shuffle:
        raise DataError("shuffle and order: say one of them, not both")
    if isinstance(order, str):
        order = build(Part(order), "order", path="order")
    if hasattr(order, "over_source"):
        order = order.over_source(source, records, seed)
    elif hasattr(order, "over"):
        order = order.over(records, seed)
    if not callable(order) or not hasattr(order, "__len__"):
        names = [e.name for e in registry.entries("order")]
        raise DataError(
            f"order: a {type(order).__name__} is not an order, which has a length and maps (epoch, positions) to indices; "
            + nearest(type(order).__name__, names)
        )
    record_count(order)
    return order


def _transforms(transforms: Any) -> Iterable[Callable[..., Batch]]:
    listed = [transforms] if callable(transforms) or isinstance(transforms, (str, Part)) else list(transforms)
    for transform in listed:
        if isinstance(transform, (str, Part)):
            transform = build(as_part(transform), "transform", path="transforms")
        if not callable(transform):
            raise DataError(f"transforms: a {type(transform).__name__} cannot be called; a transform maps a batch to a batch")
        yield transform


def _takes_rng(transform: Callable[..., Any]) -> bool:
    try:
        return "rng" in inspect.signature(transform).parameters
    except (TypeError, ValueError):
        return False
