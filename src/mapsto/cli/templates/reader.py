"""A reader maps a position to a batch. Installed, `reader/my_name` works in every spec."""

from __future__ import annotations

from typing import Any

import numpy as np

from mapsto.data import Shuffled, Stream, as_source


class MyName:
    """Maps positions to runs of `batch_size` neighbouring records, the runs in shuffled order.

    For data whose neighbours lie together on a disk: one read a batch. source: any source; shuffle: whether the runs are
    shuffled, anew each epoch.
    """

    # A parameter named after a kind (`source`) takes a mapping of that kind: a spec writes {use: ..., options}. `seed` is
    # filled in by the run where the spec leaves it open.
    def __init__(self, source: Any, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> None:
        self.source = as_source(source)
        self.batch_size = batch_size
        self.records = len(self.source)  # of a whole epoch
        self.batches_per_epoch = -(-self.records // batch_size)  # the last batch is smaller; nothing is dropped
        self.order = Shuffled(self.batches_per_epoch, seed) if shuffle else None

    def epoch(self, position: int) -> int:
        """The epoch that a position lies in."""
        return position // self.batches_per_epoch

    # Pure: position -> batch, with nothing kept between calls. That is why a run can go on at any step.
    def batch(self, position: int, shard: int = 0, shards: int = 1) -> dict[str, Any]:
        """The batch at a position; with `shards`, the slice of it that belongs to one of so many micro-shards."""
        epoch, offset = divmod(position, self.batches_per_epoch)
        run = offset if self.order is None else int(self.order(epoch, np.array([offset]))[0])
        indices = np.arange(run * self.batch_size, min((run + 1) * self.batch_size, self.records))
        cut = [len(indices) * s // shards for s in (shard, shard + 1)]
        found: dict[str, Any] = self.source[indices[cut[0] : cut[1]]]
        return found

    def stream(self, start: int = 0, stop: int | None = None, *, shard: int = 0, shards: int = 1) -> Stream[dict[str, Any]]:
        """(position, batch) from `start` on; nothing before it is read."""
        return Stream(self, start, stop, shard=shard, shards=shards)

    def sequential(self) -> MyName:
        """This reader as evaluation uses it: every record once, in the source's order."""
        return MyName(self.source, self.batch_size)
