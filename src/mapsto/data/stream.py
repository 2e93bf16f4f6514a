"""Streams: consecutive (position, batch) pairs of a reader, from any position on."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from ..core.errors import DataError
from .source import Batch

Shard = int | tuple[int, ...]
"""A micro-shard of a global batch, or several, which come as a list; -1 is one that nobody has."""


B = TypeVar("B")
"""What a stream gives: a batch, or a list of the batches of several micro-shards."""


class Reader(Protocol):
    """Maps a position to a batch, purely: what a stream needs of a reader."""

    def batch(self, position: int, shard: int = 0, shards: int = 1) -> Batch: ...


def check_reader(made: Any, who: str) -> None:
    """Raise DataError for what is no reader."""
    if missing := [name for name in ("stream", "batches_per_epoch", "records") if not hasattr(made, name)]:
        raise DataError(f"{who}: {type(made).__name__} is no reader: it has no {', '.join(missing)}")


class PaddingBatch(dict[str, Any]):
    """A batch in the place of a micro-shard without records: it is computed with, so that all ranks do the same, and
    weighs nothing."""


class Stream(Generic[B]):
    """A context manager and iterator of (position, batch), from `start` to before `stop` (None: without end).

    shard, of `shards`: a number, or several: then a list of batches stands for each position (see `read`).
    The state of a run's data is the position after the one last consumed: nothing else is kept.
    """

    def __init__(self, reader: Reader, start: int = 0, stop: int | None = None, *, shard: Shard = 0, shards: int = 1) -> None:
        self.reader, self.stop, self.shard, self.shards = reader, stop, shard, shards
        self.position = start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[int, B]]:
        return self

    def __next__(self) -> tuple[int, B]:
        position, stop = self.position, self.stop
        if stop is not None and position >= stop:
            raise StopIteration
        batch = self._read(position)
        self.position = position + 1
        return position, batch

    def _read(self, position: int) -> Any:
        return read(self.reader, position, self.shard, self.shards)

    def close(self) -> None:
        """End what the stream started; safe to call twice."""


def read(reader: Reader, position: int, shard: Shard, shards: int) -> Any:
    """The micro-shard of that number, or a list of several, in which a `PaddingBatch` replaces each without records.

    -1 is replaced too: a rank with fewer micro-shards than others has as many batches all the same.
    """
    if not isinstance(shard, tuple):
        return reader.batch(position, shard, shards)
    found: list[Batch] = []
    for number in shard:
        batch = reader.batch(position, number, shards) if number >= 0 else {}
        if not size(batch):
            batch = PaddingBatch(reader.batch(position, shards - 1, shards))  # where there are records, the last part has some
        found.append(batch)
    return found


def size(batch: Batch) -> int:
    """Records of a batch: the length of its first field, 0 where it has none."""
    return len(next(iter(batch.values()), ()))
