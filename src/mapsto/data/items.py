"""Objects with one record an index, gathered and stacked into batches."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest
from ..core.registry import decorator
from .batches import batch_of
from .doors import listed, typed
from .fields import Field, Settling, Types
from .source import Batch, Indices, Source, check_indices, record_count

SAMPLE = 32
"""Records of an object that is no list of them by which its fields' types are settled."""


@decorator("source")("items")
class Items(Source):
    """Maps indices to the stacked records of any object with `__len__` and `__getitem__` (torch data sets, lists, ...).

    A record is a dict (`fields`: the keys to keep, or a mapping of field names to keys; else all), a tuple whose elements
    `fields` names (input, target), or a single value (the first of `fields`). `__getitems__(list of int)` is used where the
    object has it. Python integers become int64 and other numbers float32, lists of numbers arrays; text, and arrays whose
    shapes differ, stay lists. A field has one type, settled by all records of a list and by 32 that are spread over any
    other object, or said: types, field -> a NumPy type or `text`; missing, field -> the value that stands for None. Raises
    DataError where a record has other fields, or does not fit.
    """

    @typed
    def __init__(
        self,
        items: Any,
        fields: Mapping[str, str] | Sequence[str] | str | None = None,
        *,
        types: Mapping[str, Any] | None = None,
        missing: Mapping[str, Any] | None = None,
    ) -> None:
        self.items = items
        self.fields = fields = listed(fields)
        self.names = ("input", "target") if fields is None else tuple(fields)
        self.types = Types("items", types, missing)
        self._count = record_count(items)
        self._many = getattr(items, "__getitems__", None)
        self._fields: dict[str, Field] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, self._count, "items")
        if self._fields is None:
            self._fields = self._infer_fields()
        chosen = indices.tolist()
        columns = self._columns(chosen) if chosen else {name: [] for name in self._fields}
        if columns.keys() != self._fields.keys():
            raise _differ(self._fields, columns)
        return {
            name: batch_of(name, self._fields[name], values, self.types, lambda i: f"items: record {chosen[i]}")
            for name, values in columns.items()
        }

    def _infer_fields(self) -> dict[str, Field]:
        every = isinstance(self.items, Sequence) or self._count <= SAMPLE
        seen = list(range(self._count)) if every else np.linspace(0, self._count - 1, SAMPLE).astype(int).tolist()
        settling = Settling(self.types)
        for name, values in self._columns(seen).items():
            for i, value in zip(seen, values, strict=True):
                settling.see(name, value, functools.partial("items: record {}".format, i))
        return settling.done(asked=self.fields is not None)

    def _columns(self, chosen: list[int]) -> dict[str, Sequence[Any]]:
        records = self._many(chosen) if self._many is not None else [self.items[i] for i in chosen]
        first = records[0]
        if isinstance(first, Mapping):
            keys = self._keys(first)
            for record in records:
                if record.keys() != first.keys() and (self.fields is None or not record.keys() >= set(keys.values())):
                    raise _differ(first, record)
            return {name: [record[key] for record in records] for name, key in keys.items()}
        if not isinstance(first, tuple):
            return {self.names[0]: records}
        if len(first) > len(self.names) or any(len(r) != len(first) for r in records):
            raise DataError(
                f"a record is a tuple of {len(first)} values and {len(self.names)} are named ({', '.join(self.names)}); "
                "name them: use('items', items=..., fields=['input', 'target', ...])"
            )
        return dict(zip(self.names, zip(*records, strict=True), strict=False))

    def _keys(self, record: Mapping[str, Any]) -> Mapping[str, str]:
        """Field -> key of a record that is a dict."""
        if self.fields is None:
            return {name: name for name in record}
        keys = self.fields if isinstance(self.fields, Mapping) else {name: name for name in self.fields}
        for key in keys.values():
            if key not in record:
                raise DataError(f"items: a record has no key {key!r}; {nearest(key, record)}")
        return keys


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> DataError:
    return DataError(f"records differ in their fields: {', '.join(one)} in one, {', '.join(other)} in another")
