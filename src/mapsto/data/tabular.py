"""Transforms of the columns of a table: missing values, categories, and columns side by side as one input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError
from ..core.ranges import Count
from ..core.registry import decorator
from .doors import typed
from .fitted import as_values, distinct, learned, names, values_of
from .source import Batch, field_of
from .transforms import array_of

Array = npt.NDArray[Any]


@decorator("transform")("fill_missing")
class FillMissing:
    """Maps missing values of fields (NaN of arrays, None of lists) to what is learned from the training records.

    by: `mean` or `median` of numbers, for each feature of [batch, features, ...], or `most_frequent` (of numbers or text; of
    equally frequent ones the first in order). A list of numbers with None becomes a float32 array. mask: fields of the same
    names with this ending tell, as bool, what was missing. Raises DataError where a feature has no value to learn from.
    """

    @typed
    def __init__(
        self,
        field: str | Sequence[str] = "input",
        by: Literal["mean", "median", "most_frequent"] = "mean",
        mask: str | None = None,
    ) -> None:
        self.field, self.by, self.mask = field if isinstance(field, str) else tuple(field), by, mask
        self.learned: Mapping[str, Any] | None = None

    def fit(self, source: Any) -> dict[str, Any]:
        """Field -> the value that stands for a missing one, or a list of them, one a feature."""
        return {name: self._value(_numbers(values_of(source, name, "fill_missing")), name) for name in names(self.field)}

    def _value(self, values: Any, name: str) -> Any:
        if isinstance(values, list):
            if self.by != "most_frequent":
                raise DataError(f"fill_missing: field {name!r} holds text, which has no {self.by}; by: most_frequent is for it")
            return self._of(values, name, "")
        if values.ndim == 1:
            return self._of(values, name, "")
        return [self._of(values[:, i].reshape(-1), name, f" in feature {i}") for i in range(values.shape[1])]

    def _of(self, values: Any, name: str, where: str) -> Any:
        """What stands for the missing ones of one feature."""
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            values = values[~np.isnan(values)]
        there: Any = [v for v in values if v is not None] if isinstance(values, list) else values
        if not len(there):
            raise DataError(f"fill_missing: field {name!r} has no value{where} in any training record")
        if self.by == "most_frequent":
            counts = Counter(there if isinstance(there, list) else there.tolist())
            return min(distinct(counts), key=lambda value: -counts[value])
        return float(np.mean(there, dtype=np.float64) if self.by == "mean" else np.median(there.astype(np.float64)))

    def __call__(self, batch: Batch) -> Batch:
        found = learned(self)
        result = dict(batch)
        for name in names(self.field):
            values = _numbers(as_values(field_of(batch, name, "fill_missing")))
            told = found[name]
            if isinstance(values, list):
                lacks = np.array([value is None for value in values], np.bool_)
                result[name] = [told if value is None else value for value in values]
            else:
                lacks = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, np.bool_)
                shape = (-1, *[1] * (values.ndim - 2)) if isinstance(told, list) else ()
                if isinstance(told, list) and (values.ndim < 2 or values.shape[1] != len(told)):
                    raise DataError(f"fill_missing: {len(told)} features were learned, and field {name!r} has {values.shape}")
                result[name] = np.where(lacks, np.asarray(told).reshape(shape), values).astype(values.dtype)
            if self.mask is not None:
                result[name + self.mask] = lacks
        return result


@decorator("transform")("encode_categories")
class EncodeCategories:
    """Maps values of fields (text or any) to the int64 numbers of the categories of the training records, in their order.

    0 is a category that is not known or missing, 1 the first. least: those of fewer training records are not known. one_hot:
    float32 rows [batch, categories] instead, without a one where a category is not known. Raises DataError.
    """

    @typed
    def __init__(self, field: str | Sequence[str], least: Count = 1, one_hot: bool = False) -> None:
        self.field, self.least, self.one_hot = field if isinstance(field, str) else tuple(field), least, one_hot
        self.learned: Mapping[str, Any] | None = None

    def fit(self, source: Any) -> dict[str, Any]:
        """Field -> its categories."""
        return {name: self._categories(values_of(source, name, "encode_categories"), name) for name in names(self.field)}

    def _categories(self, values: Any, name: str) -> list[Any]:
        counts = Counter(_listed(values, name))
        found = [value for value in distinct(counts) if counts[value] >= self.least]
        if not found:
            raise DataError(f"encode_categories: no value of field {name!r} stands in {self.least} training record(s)")
        return found

    def __call__(self, batch: Batch) -> Batch:
        found = learned(self)
        result = dict(batch)
        for name in names(self.field):
            values = _listed(as_values(field_of(batch, name, "encode_categories")), name)
            known = {value: i for i, value in enumerate(found[name], 1)}
            ids = np.array([known.get(value, 0) for value in values], np.int64)
            result[name] = (ids[:, None] == np.arange(1, len(known) + 1)).astype(np.float32) if self.one_hot else ids
        return result


@decorator("transform")("stack")
class Stack:
    """Maps fields of numbers, [batch] or [batch, features], to one float32 field [batch, all features], in their order.

    to: its name; the fields themselves are left out. Raises DataError for a field that is text or of more axes.
    """

    @typed
    def __init__(self, fields: Sequence[str], to: str = "input") -> None:
        self.fields, self.to = tuple(fields), to
        if not self.fields:
            raise DataError("stack: no field is named, and at least one is wanted")

    def __call__(self, batch: Batch) -> Batch:
        columns = [_column(_numbers(field_of(batch, name, "stack")), name) for name in self.fields]
        rest = {name: values for name, values in batch.items() if name not in self.fields}
        return {**rest, self.to: np.concatenate(columns, axis=1)}


def _column(values: Any, name: str) -> Array:
    x = array_of({name: values}, name, "stack")
    if x.ndim > 2 or x.dtype.kind not in "iufb":
        raise DataError(f"stack: field {name!r} is {x.dtype} of shape {x.shape}; numbers of [batch] or [batch, features] stack")
    return (x if x.ndim == 2 else x[:, None]).astype(np.float32)


def _numbers(values: Any) -> Any:
    """A list of numbers, some of them missing, as a float32 array with NaN; anything else as it is."""
    if isinstance(values, list) and values and all(v is None or type(v) in (int, float, bool) for v in values):
        return np.array([np.nan if v is None else v for v in values], np.float32)
    return values


def _listed(values: Any, name: str) -> list[Any]:
    """One value a record. Raises DataError for a field of arrays."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise DataError(f"encode_categories: field {name!r} has shape {values.shape}, and one value a record is wanted")
        return list(values.tolist())
    if odd := next((type(value).__name__ for value in values if isinstance(value, (list, dict)) or np.ndim(value)), None):
        raise DataError(f"encode_categories: field {name!r} holds values of type {odd}, and one value a record is wanted")
    return list(values)
