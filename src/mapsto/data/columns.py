"""Columns of Arrow tables: row indices -> values, without an Arrow call a batch where that is quicker."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..core.errors import DataError, require
from .source import Indices, lengths_of


class Column(Protocol):
    """Maps row indices to the values of a field."""

    def take(self, indices: Indices) -> Any: ...

    def lengths(self, indices: Indices, field: str) -> Indices: ...


class Numbers:
    """Numbers, dates and fixed-size lists of numbers, as one array."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values

    def take(self, indices: Indices) -> Any:
        return self.values.take(indices, axis=0)

    def lengths(self, indices: Indices, field: str) -> Indices:
        return lengths_of(self.take(indices), field)


class Pieces:
    """Lists of numbers: all numbers one after another, and the offsets of the lists."""

    def __init__(
        self, offsets: np.ndarray[Any, Any], content: np.ndarray[Any, Any], valid: np.ndarray[Any, Any] | None
    ) -> None:
        self.offsets, self.content, self.valid = offsets, content, valid

    def take(self, indices: Indices) -> list[Any]:
        pairs = zip(self.offsets.take(indices).tolist(), self.offsets.take(indices + 1).tolist(), strict=True)
        found: list[Any] = [self.content[a:b] for a, b in pairs]
        if self.valid is not None:
            return [v if ok else None for v, ok in zip(found, self.valid[indices].tolist(), strict=True)]
        return found

    def lengths(self, indices: Indices, field: str) -> Indices:  # noqa: ARG002
        return _spans(self.offsets, indices)


class Objects:
    """Text, bytes and anything else as Python objects, made by Arrow: twice as quick as slicing and decoding here."""

    def __init__(self, values: Any, offsets: np.ndarray[Any, Any] | None = None) -> None:
        self.values, self.offsets = values, offsets
        self._indices = require("pyarrow", "arrow", "a table").array

    def take(self, indices: Indices) -> list[Any]:
        found: list[Any] = self.values.take(self._indices(indices)).to_pylist()
        return found

    def lengths(self, indices: Indices, field: str) -> Indices:
        if self.offsets is not None:
            return _spans(self.offsets, indices)
        return lengths_of(self.take(indices), field)


def _spans(offsets: np.ndarray[Any, Any], indices: Indices) -> Indices:
    found: Indices = offsets.take(indices + 1) - offsets.take(indices)
    return found


def column_of(chunked: Any, what: str) -> Column:
    """The column of a pyarrow ChunkedArray. Raises DataError where a number is missing and cannot be NaN."""
    arrow = require("pyarrow", "arrow", "a table")
    kinds = arrow.types
    if kinds.is_dictionary(chunked.type):
        chunked = chunked.cast(chunked.type.value_type)
    kind = chunked.type
    if kinds.is_string(kind) or kinds.is_binary(kind):  # 32-bit offsets overflow where chunks are joined
        chunked = chunked.cast(arrow.large_string() if kinds.is_string(kind) else arrow.large_binary())
    elif kinds.is_list(kind):
        chunked = chunked.cast(arrow.large_list(kind.value_type))
    values = chunked.combine_chunks()
    kind = values.type
    if kinds.is_large_string(kind) or kinds.is_large_binary(kind):
        return Objects(values, _offsets(values))
    if kinds.is_large_list(kind) and _numeric(kinds, kind.value_type) and values.values.null_count == 0:
        return Pieces(_offsets(values), _array(values.values, what), _valid(values))
    if kinds.is_fixed_size_list(kind) and _numeric(kinds, kind.value_type) and values.null_count == 0:
        return Numbers(_array(values.flatten(), what).reshape(len(values), kind.list_size))
    if _numeric(kinds, kind) or kinds.is_temporal(kind):
        return Numbers(_array(values, what))
    return Objects(values)


def _numeric(kinds: Any, kind: Any) -> bool:
    return bool(kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind))


def _array(values: Any, what: str) -> np.ndarray[Any, Any]:
    if values.null_count and not str(values.type).startswith(("float", "double", "halffloat")):
        raise DataError(f"{what} lacks {values.null_count} of its {len(values)} values: fill them in or drop those rows")
    array: np.ndarray[Any, Any] = values.to_numpy(zero_copy_only=False)
    return array


def _offsets(values: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.frombuffer(values.buffers()[1], np.int64)[values.offset : values.offset + len(values) + 1]
    return found


def _valid(values: Any) -> np.ndarray[Any, Any] | None:
    return values.is_valid().to_numpy(zero_copy_only=False) if values.null_count else None
