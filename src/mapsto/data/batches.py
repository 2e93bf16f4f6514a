"""Values of a field as a batch of it: in the type that was settled, or an error that names the record which does not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.native import native
from .fields import LIST, Field, Types, Unfit, overflows, type_hint
from .source import is_tensor


def batch_of(name: str, field: Field, values: Sequence[Any], types: Types, place: Callable[[int], str]) -> Any:
    """A field's values in its type. Raises DataError naming the record that does not fit (place: where value i stands)."""
    said, filled = types.said.get(name), types.missing.get(name)
    if filled is not None:
        values = [filled if v is None else v for v in values]
    try:
        return _batch(field, values, said)
    except Unfit as reason:
        for i, value in enumerate(values):
            try:
                _batch(field, [value], said)
            except Unfit as own:
                raise DataError(f"{place(i)}: field {name!r} {own}; {type_hint(name, '...')}") from None
        raise DataError(f"{place(0)}: field {name!r} {reason}; {type_hint(name, '...')}") from None


def _batch(field: Field, values: Sequence[Any], said: Any) -> Any:
    if said == LIST or (said is None and field.kind in ("object", "nothing")):
        return list(values)
    if field.kind in ("object", "nothing"):
        field = Field("numbers", None, (), field.missing)
    if field.kind == "tensor":
        return _tensors(field, values)
    dtype = said if said is not None else field.dtype
    if field.missing and field.shape == () and dtype.kind == "f":
        values = [np.nan if v is None else v for v in values]
    elif field.missing:
        return [None if v is None else v if field.shape == () else _cast(v, dtype, said) for v in values]
    if field.shape is None:
        return [_cast(v, dtype, said) for v in values]
    if not len(values):
        return np.empty((0, *field.shape), dtype)
    made = _cast(values if field.kind == "numbers" else _stacked(values, dtype, said), dtype, said)
    if made.shape[1:] != field.shape:
        raise Unfit(f"has records of shape {made.shape[1:]}, and of {field.shape} elsewhere")
    return made


def _stacked(values: Sequence[Any], dtype: Any, said: Any) -> Any:
    try:
        made = np.stack([np.asarray(v) for v in values])
    except ValueError:
        raise Unfit("has records of other shapes than elsewhere") from None
    if said is None and not np.can_cast(made.dtype, dtype):
        raise Unfit(f"holds {made.dtype}, which {dtype} does not")
    return made


def _tensors(field: Field, values: Sequence[Any]) -> Any:
    if any(v is not None and not (is_tensor(v) and v.dtype == field.element) for v in values):
        raise Unfit(f"is no tensor of {field.element}, as elsewhere")
    if field.shape is None or field.missing:
        return [None if v is None else native(field.wing).stack([v], field.shape or (), field.element)[0] for v in values]
    if any(v is None or v.shape != field.shape for v in values):
        raise Unfit(f"is no tensor of shape {field.shape}, as elsewhere")
    return native(field.wing).stack(values, field.shape, field.element)


def _cast(value: Any, dtype: Any, said: Any) -> Any:
    """Numbers, or an array, as a new array. Raises Unfit where the type cannot hold them; one that was said may round."""
    try:
        raw = np.array(value)
    except (ValueError, OverflowError):
        raise Unfit("has records of other shapes than elsewhere") from None
    if raw.size == 0:
        return raw.astype(dtype)
    if dtype.kind == "M" or (raw.dtype == object and said is not None):
        return _parsed(value, dtype)
    if raw.dtype.kind not in "iufb" or (said is None and (raw.dtype.kind == "b") != (dtype.kind == "b")):
        raise Unfit(f"holds what is not {dtype}")
    with np.errstate(all="ignore"):
        cast = raw.astype(dtype)
        if dtype.kind in "iub" and not np.array_equal(cast.astype(raw.dtype), raw):
            raise Unfit(f"holds numbers that are not {dtype}")
        if said is not None and overflows(raw, cast):
            raise Unfit(f"holds numbers beyond {dtype}")
        if said is None and dtype == np.float32 and raw.dtype != np.float32:
            real = raw.astype(np.float64)
            if ((np.abs(real) >= 2**24) & np.isfinite(real) & (cast.astype(np.float64) != real)).any():
                raise Unfit("holds numbers that float32 does not")
    return cast


def _parsed(value: Any, dtype: Any) -> Any:
    """What NumPy makes of objects (dates as text, whole numbers of any size) in a type that was said."""
    try:
        return np.array(value, dtype)
    except (TypeError, ValueError, OverflowError):
        raise Unfit(f"holds what is not {dtype}") from None
