"""Streams: consecutive (position, batch) pairs of a reader, from any position on."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

from .source import Batch


class Reader(Protocol):
    """Maps a position to a batch, purely: what a stream needs of a reader."""

    def batch(self, position: int, shard: int = 0, shards: int = 1) -> Batch: ...


class Stream:
    """A context manager and iterator of (position, batch), from `start` to before `stop` (None: without end).

    The state of a run's data is the position after the one last consumed: nothing else is kept.
    """

    def __init__(self, reader: Reader, start: int = 0, stop: int | None = None, *, shard: int = 0, shards: int = 1) -> None:
        self.reader, self.stop, self.shard, self.shards = reader, stop, shard, shards
        self.position = start

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        return self

    def __next__(self) -> tuple[int, Batch]:
        position, stop = self.position, self.stop
        if stop is not None and position >= stop:
            raise StopIteration
        batch = self._read(position)
        self.position = position + 1
        return position, batch

    def _read(self, position: int) -> Batch:
        return self.reader.batch(position, self.shard, self.shards)

    def close(self) -> None:
        """End what the stream started; safe to call twice."""
