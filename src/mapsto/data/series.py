"""Windows over a series: so many records one after another as one, and what comes next as its target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.ranges import Count
from ..core.registry import decorator
from .adapt import as_source
from .doors import typed
from .fitted import names
from .source import Batch, Indices, Source, check_indices, record_count
from .splits import codes_of, field_of_all
from .tabular import Stack


@decorator("source")("windows")
class Windows(Source):
    """Maps indices to windows of a source whose records are in the order of time: `input`, float32 [batch, length, features],
    and `target`, float32 [batch] or, of a horizon above 1, [batch, horizon].

    fields: those of numbers that stand in the input; target: the field that is foretold; horizon: how many records after the
    window it is read of; stride: records from one window's start to the next; groups: a field, such as a sensor or patient,
    whose values no window mixes. A part by time is taken of the source (`split` with `by`), so that no window reaches from one
    part into the other. Raises DataError where no window fits, or a group's records do not lie together.
    """

    @typed
    def __init__(
        self,
        source: Any,
        length: Count,
        fields: Sequence[str] | str = "input",
        target: str = "target",
        horizon: Count = 1,
        stride: Count = 1,
        groups: str | None = None,
    ) -> None:
        self.source = as_source(source)
        self.length, self.horizon, self.target = length, horizon, target
        self._columns, self._targets = Stack(names(fields)), Stack((target,), to="target")
        count, span = record_count(self.source), length + horizon
        ends = [count] if groups is None else self._ends(groups, count)
        runs = [np.arange(start, end - span + 1, stride) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        self._starts: Indices = np.concatenate(runs).astype(np.int64)
        self._short = sum(len(run) == 0 for run in runs)
        if not len(self._starts):
            longest = max(end - start for start, end in zip([0, *ends[:-1]], ends, strict=True))
            raise DataError(
                f"windows: {length} records and {horizon} after them do not fit into {longest} records"
                + (f", the most of one value of {groups!r}" if groups is not None else "")
            )

    def _ends(self, groups: str, count: int) -> list[int]:
        """Where the records of each group end."""
        codes, values = codes_of(field_of_all(self.source, groups, count, "windows: groups"))
        ends = [*(np.flatnonzero(np.diff(codes)) + 1).tolist(), count]
        if len(ends) > len(values):
            runs = codes[np.array(ends) - 1]
            torn = values[int(np.bincount(runs).argmax())]
            raise DataError(
                f"windows: the records of {groups}={torn!r} do not lie together; sort the source by {groups!r} first"
            )
        return ends

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, len(self), "windows")
        at = self._starts[indices][:, None] + np.arange(self.length + self.horizon)
        records = self.source[at.reshape(-1)]
        columns = self._columns({name: records[name] for name in self._columns.fields if name in records})["input"]
        targets = self._targets({self.target: records[self.target]} if self.target in records else {})["target"]
        shape = (len(indices), self.length + self.horizon, -1 if columns.size else columns.shape[1])
        after = targets.reshape(*shape[:2])[:, self.length :] if targets.shape[1] == 1 else None
        if after is None:
            raise DataError(f"windows: target {self.target!r} has {targets.shape[1]} numbers a record, and one is wanted")
        inputs = np.ascontiguousarray(columns.reshape(shape)[:, : self.length])
        return {"input": inputs, "target": after[:, 0].copy() if self.horizon == 1 else after.copy()}

    def notes(self) -> list[str]:
        """How many groups are too short for a window."""
        return [f"windows: {self._short} groups have too few records for a window"] if self._short else []

    def close(self) -> None:
        """Close the source where it can be closed."""
        if hasattr(self.source, "close"):
            self.source.close()
