"""Columns of Arrow tables: row indices -> values, without an Arrow call a batch where that is quicker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..core.errors import DataError, require
from .fields import LIST, overflows
from .source import Indices, lengths_of


class Column(Protocol):
    """Maps row indices to the values of a field."""

    def take(self, indices: Indices) -> Any: ...

    def lengths(self, indices: Indices, field: str) -> Indices: ...


class Numbers:
    """Numbers, dates, tensors, and lists of numbers that are all of one shape, as one array."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values

    def take(self, indices: Indices) -> Any:
        return self.values.take(indices, axis=0)

    def lengths(self, indices: Indices, field: str) -> Indices:
        return lengths_of(self.take(indices), field)


class Pieces:
    """Lists of numbers: all numbers one after another, and the offsets of the lists; one array where all are of one length."""

    def __init__(
        self, offsets: np.ndarray[Any, Any], content: np.ndarray[Any, Any], valid: np.ndarray[Any, Any] | None
    ) -> None:
        self.offsets, self.content, self.valid = offsets, content, valid
        lengths = np.diff(offsets)
        self.rows: np.ndarray[Any, Any] | None = None
        if valid is None and len(lengths) and (lengths == lengths[0]).all():
            self.rows = content[offsets[0] : offsets[-1]].reshape(len(lengths), int(lengths[0]))

    def take(self, indices: Indices) -> Any:
        if self.rows is not None:
            return self.rows.take(indices, axis=0)
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


def column_of(chunked: Any, what: str, said: Any = None, place: Callable[[int], str] | None = None) -> Column:
    """The column of a pyarrow (Chunked)Array; said: the NumPy type that it is wanted in.

    place: where a row stands, of a column that is asked for by name; raises DataError where such a one lacks a number that
    cannot be NaN (any other is a list with None then), or holds what the type that was said does not.
    """
    arrow = require("pyarrow", "arrow", "a table")
    kinds = arrow.types
    if kinds.is_dictionary(chunked.type):
        chunked = chunked.cast(chunked.type.value_type)
    kind = chunked.type
    if kinds.is_string(kind) or kinds.is_binary(kind):  # 32-bit offsets overflow where chunks are joined
        chunked = chunked.cast(arrow.large_string() if kinds.is_string(kind) else arrow.large_binary())
    elif kinds.is_list(kind):
        chunked = chunked.cast(arrow.large_list(kind.value_type))
    values = chunked.combine_chunks() if isinstance(chunked, arrow.ChunkedArray) else chunked
    if isinstance(values, arrow.FixedShapeTensorArray) and said != LIST:
        if values.null_count:
            raise DataError(f"{what} lacks {values.null_count} of its {len(values)} tensors, for which nothing stands")
        return Numbers(_in_type(values.to_numpy_ndarray(), said, what))
    values = getattr(values, "storage", values)  # of any other type that somebody defined
    kind = values.type
    if kinds.is_large_string(kind) or kinds.is_large_binary(kind) or said == LIST:
        if isinstance(said, np.dtype):
            raise DataError(f"{what} holds {kind}, and types says {said}")
        return Objects(values, _offsets(values) if kinds.is_large_string(kind) or kinds.is_large_binary(kind) else None)
    if kinds.is_large_list(kind) and _numeric(kinds, kind.value_type) and values.values.null_count == 0:
        return Pieces(_offsets(values), _in_type(_array(values.values), said, what), _valid(values))
    if kinds.is_fixed_size_list(kind) and _numeric(kinds, kind.value_type) and values.null_count == 0:
        return Numbers(_in_type(_array(values.flatten()), said, what).reshape(len(values), kind.list_size))
    if _numeric(kinds, kind) or (kinds.is_temporal(kind) and not kinds.is_time(kind)):
        wanted = said if said is not None else np.dtype(np.float32 if kinds.is_floating(kind) else np.int64)
        if values.null_count and wanted.kind in "iub" and not kinds.is_temporal(kind):
            if place is None:
                return Objects(values)
            first = int(np.flatnonzero(~np.asarray(values.is_valid()))[0])
            raise DataError(f"{place(first)}: {what} lacks {values.null_count} of its {len(values)} values: {_remedy()}")
        return Numbers(_in_type(_array(values), said, what))
    if (array := _rectangle(values, kinds)) is not None:
        return Numbers(_in_type(array, said, what))
    if isinstance(said, np.dtype):
        raise DataError(f"{what} holds {kind} of no one shape, or lacks values, and types says {said}")
    return Objects(values)


def _rectangle(values: Any, kinds: Any) -> np.ndarray[Any, Any] | None:
    """Lists of lists of numbers as one array, where all are of one shape and none lacks a number."""
    shape = [len(values)]
    while kinds.is_list(values.type) or kinds.is_large_list(values.type) or kinds.is_fixed_size_list(values.type):
        lengths: Any = values.value_lengths().to_numpy(zero_copy_only=False) if not values.null_count else ()
        if not len(lengths) or (lengths != lengths[0]).any():
            return None
        shape.append(int(lengths[0]))
        values = values.flatten()
    if len(shape) == 1 or not _numeric(kinds, values.type) or values.null_count:
        return None
    return _array(values).reshape(shape)


def _remedy() -> str:
    return "say what stands for them, missing: {field: 0}, or types: {field: float64} to have NaN"


def filled(values: Any, value: Any, what: str) -> Any:
    """The column with `value` in the place of what is missing. Raises DataError where its type cannot hold that."""
    arrow = require("pyarrow", "arrow", "a table")
    try:
        held = arrow.scalar(value, values.type)
        if (arrow.types.is_integer(values.type) or arrow.types.is_boolean(values.type)) and held.as_py() != value:
            raise ValueError  # Arrow cuts a fraction off
        return values.fill_null(held)
    except (arrow.ArrowException, TypeError, OverflowError, ValueError):
        raise DataError(f"{what} is {values.type}, which cannot hold {value!r} in the place of missing values") from None


def _in_type(array: np.ndarray[Any, Any], said: Any, what: str) -> np.ndarray[Any, Any]:
    """Numbers in the type that was said. Raises DataError where whole numbers would change, or finite ones become infinite."""
    if said is None or array.dtype == said:
        return array
    with np.errstate(all="ignore"):
        cast = array.astype(said)
        kept = np.array_equal(cast.astype(array.dtype), array) if said.kind in "iub" else not overflows(array, cast)
    if not kept:
        raise DataError(f"{what} is {array.dtype} and holds numbers that are not {said}")
    return cast


def joined(tables: Sequence[Any], paths: Sequence[Any], who: str) -> Any:
    """Tables of several files, one after another, in types that hold the values of all.

    Raises DataError naming the file whose columns are others, or whose types no type holds together with the first one's.
    """
    arrow = require("pyarrow", "arrow", "a table")
    tables, kinds = [_decoded(table) for table in tables], arrow.types
    first = tables[0].schema
    for table, path in zip(tables[1:], paths[1:], strict=True):
        if odd := set(first.names) ^ set(table.schema.names):
            name = min(odd)
            lacks, has = (path, paths[0]) if name in first.names else (paths[0], path)
            raise DataError(f"{who}: {lacks} has no column {name!r}, which {has} has: name the fields to keep")
        for name in first.names:
            one, other = first.field(name).type, table.schema.field(name).type
            if kinds.is_null(one) or kinds.is_null(other):
                continue
            if (_numeric(kinds, one) or _numeric(kinds, other)) and _family(kinds, one) != _family(kinds, other):
                raise DataError(
                    f"{who}: column {name!r} is {other} in {path} and {one} in {paths[0]}: write the files in one type"
                )
    try:
        return arrow.concat_tables([t.select(first.names) for t in tables], promote_options="permissive")
    except (arrow.ArrowException, TypeError) as error:
        raise DataError(f"{who}: {', '.join(map(str, paths))} hold columns of types that do not join: {error}") from error


def _decoded(table: Any) -> Any:
    """The table with the values of dictionaries in the place of their numbers, since each file has a dictionary of its own."""
    for i, column in enumerate(table.columns):
        if hasattr(column.type, "value_type") and hasattr(column.type, "index_type"):
            table = table.set_column(i, table.field(i).name, column.cast(column.type.value_type))
    return table


def _family(kinds: Any, kind: Any) -> str:
    """What a type's numbers may be widened within without a change."""
    tests = {"truth": kinds.is_boolean, "whole": kinds.is_signed_integer, "natural": kinds.is_unsigned_integer}
    tests |= {"real": kinds.is_floating}
    return next((name for name, test in tests.items() if test(kind)), str(kind))


def is_plain(kind: Any) -> bool:
    """Whether values of a type lie one after another, without offsets into other memory."""
    kinds = require("pyarrow", "arrow", "a table").types
    return bool(_numeric(kinds, kind) or kinds.is_temporal(kind))


def _numeric(kinds: Any, kind: Any) -> bool:
    return bool(kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind))


def _array(values: Any) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = values.to_numpy(zero_copy_only=False)
    return array


def _offsets(values: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.frombuffer(values.buffers()[1], np.int64)[values.offset : values.offset + len(values) + 1]
    return found


def _valid(values: Any) -> np.ndarray[Any, Any] | None:
    return values.is_valid().to_numpy(zero_copy_only=False) if values.null_count else None
