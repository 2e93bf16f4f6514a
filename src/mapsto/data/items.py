"""Objects with one record an index, gathered and stacked into batches."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.registry import decorator
from .source import Batch, Indices, Source, check_indices, is_tensor, record_count


@decorator("source")("items")
class Items(Source):
    """Maps indices to the stacked records of any object with `__len__` and `__getitem__` (torch data sets, lists, ...).

    A record is a dict of fields, a tuple whose elements are named by `fields`, or a single value (the first of
    `fields`). `__getitems__(list of int)` is used where the object has it. Python integers become int64, other numbers
    float32; text, and arrays whose shapes differ, stay lists. Raises DataError where a record has other fields.
    """

    def __init__(self, items: Any, fields: Sequence[str] = ("input", "target")) -> None:
        self.items = items
        self.names = tuple(fields)
        self._count = record_count(items)
        self._many = getattr(items, "__getitems__", None)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, self._count, "items")
        chosen = indices.tolist()
        if not chosen:  # the fields and shapes of no record are those of any record, cut off
            return {name: values[:0] for name, values in self[np.zeros(1, np.int64)].items()}
        records = self._many(chosen) if self._many is not None else [self.items[i] for i in chosen]
        return stack_records(records, self.names)


def stack_records(records: Sequence[Any], names: Sequence[str]) -> Batch:
    """A batch from records that are dicts, tuples (named by `names`) or single values."""
    first = records[0]
    if isinstance(first, Mapping):
        columns = _columns(records)
    elif isinstance(first, tuple):
        if len(first) > len(names) or any(len(r) != len(first) for r in records):
            raise DataError(
                f"a record is a tuple of {len(first)} values and {len(names)} are named ({', '.join(names)}); "
                "name them: use('items', items=..., fields=['input', 'target', ...])"
            )
        columns = dict(zip(names, zip(*records, strict=True), strict=False))
    else:
        columns = {names[0]: records}
    return {name: stack(values) for name, values in columns.items()}


def _columns(records: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Any]]:
    names = list(records[0])
    for record in records:
        if record.keys() != records[0].keys():
            raise DataError(f"records differ in their fields: {', '.join(names)} in one, {', '.join(record)} in another")
    return {name: [record[name] for record in records] for name in names}


def stack(values: Sequence[Any]) -> Any:
    """One field from its records' values: an array or tensor with a new first axis, or a list where that cannot be."""
    first = values[0]
    if is_tensor(first):
        same = all(is_tensor(v) and v.shape == first.shape for v in values)
        return sys.modules["torch"].stack(list(values)) if same else list(values)
    if isinstance(first, (np.ndarray, np.generic)) or _is_image(first):
        arrays = [np.asarray(v) for v in values]
        return np.stack(arrays) if all(a.shape == arrays[0].shape for a in arrays) else arrays
    if isinstance(first, bool):
        return np.array(values, bool) if all(isinstance(v, bool) for v in values) else list(values)
    if isinstance(first, (int, float)):
        if all(type(v) is int for v in values):
            return np.array(values, np.int64)
        return np.array(values, np.float32) if all(isinstance(v, (int, float)) for v in values) else list(values)
    return list(values)


def _is_image(value: Any) -> bool:
    return type(value).__module__.startswith("PIL.")
