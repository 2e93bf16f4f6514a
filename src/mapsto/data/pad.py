"""Padding: from records of differing length to rectangular arrays."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError, nearest
from ..core.native import native_of
from ..core.ranges import Count
from ..core.registry import decorator
from .doors import typed
from .fields import overflows
from .source import Batch, field_of, is_tensor

Array = npt.NDArray[Any]


@decorator("transform")("pad")
class Pad:
    """Maps records of differing length, [length, ...] each, to an array [batch, longest, ...] filled up with `value`.

    field: one, or several that are padded each to its own width; value: for all, or field -> value (ignored targets:
    -100); side: where it is filled; max_length: longer records lose their end; multiple_of: the width is rounded up to a
    multiple; mask, lengths: the name of a field to add (of several: field -> name), bool [batch, longest] and int64
    [batch]. Arrays keep their type, Python integers become int64 and other numbers float32; dtype: the type where that
    says another. The width is at least 1. Raises DataError where a record is no list of numbers, or the type of a field
    cannot hold `value`.
    """

    @typed
    def __init__(
        self,
        field: str | Sequence[str] = "input",
        value: float | Mapping[str, float] = 0,
        *,
        side: Literal["right", "left"] = "right",
        max_length: Count | None = None,
        multiple_of: Count = 1,
        mask: str | Mapping[str, str] | None = None,
        lengths: str | Mapping[str, str] | None = None,
        dtype: str | None = None,
    ) -> None:
        try:
            self.dtype = None if dtype is None else np.dtype(dtype)
        except TypeError:
            raise DataError(f"pad: {dtype!r} is no type of numbers; such as int64, int32, float32, float64, bool") from None
        self.field, self.value, self.side, self.max_length, self.multiple_of = field, value, side, max_length, multiple_of
        self.mask, self.lengths = mask, lengths
        for what, said in (("value", value), ("mask", mask), ("lengths", lengths)):
            if isinstance(said, Mapping):
                for name in said:
                    if name not in self.fields:
                        raise DataError(
                            f"pad: {what} names the field {name!r}, which is not padded; {nearest(name, self.fields)}"
                        )
            elif isinstance(said, str) and len(self.fields) > 1:
                raise DataError(f"pad: {what} {said!r} would be that of {len(self.fields)} fields: write field: name for each")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are padded."""
        return (self.field,) if isinstance(self.field, str) else tuple(self.field)

    def __call__(self, batch: Batch) -> Batch:
        result = dict(batch)
        for field in self.fields:
            result[field], inside, counts = self._padded(field_of(batch, field, "pad"), field)
            for said, found in ((self.mask, inside), (self.lengths, counts)):
                name = said.get(field) if isinstance(said, Mapping) else said
                if name in result:
                    raise DataError(f"pad: there is a field {name!r} already, which {field!r} would be written over")
                if name is not None:
                    result[name] = found
        return result

    def _padded(self, rows: Any, field: str) -> tuple[Array, Array, Array]:
        """(the array, where it holds what was given, the lengths)."""
        if is_tensor(rows) or (len(rows) and is_tensor(rows[0])):
            rows = [row if own is None else own.to_numpy(row) for row in rows for own in (native_of(row),)]
        try:
            if self.max_length is not None:
                rows = [row[: self.max_length] for row in rows]
            counts = np.fromiter(map(len, rows), np.int64, len(rows))
        except (TypeError, IndexError):
            raise DataError(f"pad: the records of field {field!r} are not lists of numbers") from None
        flat = _flat(rows, int(counts.sum()), field, self.dtype)
        value = self.value.get(field, 0) if isinstance(self.value, Mapping) else self.value
        width = max(-(-int(counts.max(initial=1)) // self.multiple_of) * self.multiple_of, 1)
        places = np.arange(width) if self.side == "right" else np.arange(width)[::-1]
        inside = places < counts[:, None]
        padded = np.full((len(rows), width, *flat.shape[1:]), _fill(value, flat.dtype, field), flat.dtype)
        padded[inside] = flat
        return padded, inside, counts


def _fill(value: float, dtype: np.dtype[Any], field: str) -> Any:
    """The padding value in the type of a field. Raises DataError where that cannot hold it."""
    try:
        with np.errstate(all="ignore"):
            held = np.array(value).astype(dtype)
        exact = not overflows(np.array(value), held) if dtype.kind == "f" else bool(held.item() == value and np.isfinite(value))
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact:
        raise DataError(f"pad: field {field!r} is {dtype}, which cannot hold the value {value}: say another, or dtype=...")
    return held


def _flat(rows: Any, count: int, field: str, dtype: np.dtype[Any] | None) -> Array:
    """All numbers one after another, [numbers, ...]."""
    try:
        if len(rows) and all(isinstance(row, np.ndarray) for row in rows):
            flat = np.concatenate(rows)
        else:
            flat = _listed(rows, count)
    except (TypeError, ValueError, OverflowError) as error:
        shapes = sorted({np.shape(row)[1:] for row in rows if isinstance(row, np.ndarray)})
        if len(shapes) > 1:
            raise DataError(
                f"pad: records of field {field!r} differ in more than their length: {shapes[0]}, {shapes[1]}"
            ) from None
        if isinstance(error, OverflowError):
            raise DataError(f"pad: field {field!r} holds a whole number beyond int64") from None
        flat = np.empty(0, object)
    if flat.dtype.kind not in "iufb":
        raise DataError(f"pad: the records of field {field!r} are not lists of numbers: tokenise it first")
    return flat if dtype is None else _cast(flat, dtype, field)


def _listed(rows: Any, count: int) -> Array:
    """Lists of Python numbers, or of lists of them: int64 where all are whole, else float32."""
    chained = list(itertools.chain.from_iterable(rows))
    if not chained:
        return np.empty(0, np.int64)
    if all(type(v) is int for v in chained):
        return np.fromiter(chained, np.int64, count)
    flat = np.array(chained)
    return flat.astype(np.float32) if flat.dtype.kind == "f" and isinstance(chained[0], (int, float, list)) else flat


def _cast(flat: Array, dtype: np.dtype[Any], field: str) -> Array:
    """Numbers in the type that was asked for. Raises DataError where it cannot hold them."""
    with np.errstate(all="ignore"):
        cast = flat.astype(dtype)
    if overflows(flat, cast) or (dtype.kind in "iub" and not np.array_equal(cast.astype(flat.dtype), flat)):
        raise DataError(f"pad: field {field!r} holds numbers that are not {dtype}")
    return cast
