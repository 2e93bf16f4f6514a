"""Batches of records of similar length: an order over another order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest
from ..core.random import generator
from .source import Indices, record_lengths


class Bucketed:
    """Maps positions to record indices so that the records of one batch have similar lengths.

    The stream of `order` is cut into windows of `window` batches; within one, records are sorted by length (ties stay
    shuffled), cut into batches, and the batches permuted. A permutation of each window, hence of each epoch. The epoch's
    smaller last batch stays last; where in the sorted window it is cut out is drawn. Lengths are read once a window.
    by: the field whose lengths count (a 1-D integer field holds them), or a function of a raw batch.
    """

    def __init__(
        self, order: Any, source: Any, by: str | Callable[..., Any], batch_size: int, window: int = 100, seed: int = 0
    ) -> None:
        self.order, self.source, self.by = order, source, by
        self.batch_size, self.size, self.seed = batch_size, window * batch_size, seed
        self._windows: OrderedDict[tuple[int, int], Indices] = OrderedDict()
        if isinstance(by, str):
            fields = source[np.zeros(1, np.int64)]
            if by not in fields:
                raise DataError(f"bucket_by: the source has no field {by!r}; {nearest(by, fields)}")
        elif not callable(by):
            raise DataError(f"bucket_by: a {type(by).__name__} is neither a field's name nor a function of a batch")

    def __len__(self) -> int:
        return len(self.order)

    def __call__(self, epoch: int, positions: Indices) -> Indices:
        found = np.empty(len(positions), np.int64)
        windows = positions // self.size
        for window in np.unique(windows).tolist():
            here = windows == window
            found[here] = self._window(epoch, window)[positions[here] - window * self.size]
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_windows": OrderedDict()}

    def _window(self, epoch: int, window: int) -> Indices:
        key = (epoch, window)
        if key not in self._windows:
            self._windows[key] = self._sort(epoch, window)
            while len(self._windows) > 4:
                self._windows.popitem(last=False)
        return self._windows[key]

    def _sort(self, epoch: int, window: int) -> Indices:
        start = window * self.size
        positions = np.arange(start, min(start + self.size, len(self)), dtype=np.int64)
        indices = np.asarray(self.order(epoch, positions), np.int64)
        ranked = indices[np.argsort(self._lengths(indices), kind="stable")]
        rng = generator(self.seed, "bucketed", epoch, window)
        whole, left = divmod(len(ranked), self.batch_size)
        cut = int(rng.integers(whole * self.batch_size + 1))
        kept, last = np.delete(ranked, np.s_[cut : cut + left]), ranked[cut : cut + left]
        batches = kept.reshape(whole, self.batch_size)[rng.permutation(whole)]
        return np.concatenate([batches.ravel(), last])

    def _lengths(self, indices: Indices) -> Indices:
        if isinstance(self.by, str):
            return record_lengths(self.source, self.by, indices)
        lengths = np.asarray(self.by(self.source[indices]))
        if lengths.shape != (len(indices),):
            raise DataError(f"bucket_by: the function gave {lengths.shape} lengths for a batch of {len(indices)} records")
        return lengths
