"""What a worker reads of the training data."""

from __future__ import annotations

import contextlib
from typing import Any


class Streams:
    """The training data by block of micro-shards: a stream each, gone on with while steps follow one another."""

    def __init__(self, reader: Any, shards: int, stop: int | None) -> None:
        self.reader, self.shards, self.stop = reader, shards, stop
        self._open: dict[range, tuple[int, Any, Any]] = {}

    def read(self, step: int, block: range) -> list[Any]:
        """The micro-shards of a block at a step."""
        due, context, stream = self._open.pop(block, (-1, None, None))
        if due != step:
            if context is not None:
                context.__exit__(None, None, None)
            context = self.reader.stream(step, self.stop, shard=tuple(block), shards=self.shards)
            stream = context.__enter__()
        _, batches = next(iter(stream))
        self._open[block] = (step + 1, context, stream)
        return list(batches)

    def close(self) -> None:
        """End the worker processes that the readers' streams started."""
        for _, context, _ in self._open.values():
            with contextlib.suppress(Exception):
                context.__exit__(None, None, None)
        self._open.clear()
