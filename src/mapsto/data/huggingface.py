"""Hugging Face data sets as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest, require
from ..core.registry import decorator
from .items import stack
from .source import Batch, Indices, Source, check_indices, record_count


@decorator("source")("huggingface")
class HuggingFace(Source):
    """Maps indices to rows of a `datasets.Dataset`: one given, one saved with `save_to_disk`, or one loaded by name.

    split: of a data set that has several; fields: the columns to keep, or a mapping of field names to columns; options:
    for `datasets.load_dataset`. Raises DataError with the nearest split or column, MissingExtra without `datasets`.
    """

    def __init__(
        self, data: Any, split: str | None = None, fields: Mapping[str, str] | Sequence[str] | None = None, **options: Any
    ) -> None:
        data = _loaded(data, split, options) if isinstance(data, (str, Path)) else data
        if isinstance(data, Mapping):
            if split not in data:
                raise DataError(f"huggingface: the data set has no split {split!r}; {nearest(str(split), data)}")
            data = data[split]
        if not hasattr(data, "column_names") or not hasattr(data, "__len__"):
            raise DataError(f"huggingface: a {type(data).__name__} has no record indices; a map-style Dataset is wanted")
        self.data = data
        columns = data.column_names if fields is None else fields
        self.columns = dict(columns) if isinstance(columns, Mapping) else {c: c for c in columns}
        for name in self.columns.values():
            if name not in data.column_names:
                raise DataError(f"huggingface: there is no column {name!r}; {nearest(name, data.column_names)}")
        self._count = record_count(data)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, self._count, "huggingface")
        rows = self.data[indices.tolist() or [0]]
        batch = {field: _stacked(rows[name]) for field, name in self.columns.items()}
        return batch if len(indices) else {field: values[:0] for field, values in batch.items()}


def _stacked(values: Any) -> Any:
    """A column as it comes from `datasets`: lists are stacked, arrays of its own formats kept."""
    if not isinstance(values, list):
        return values
    numeric = isinstance(values[0], list) and values[0] and isinstance(values[0][0], (int, float, list))
    return stack([np.asarray(v) for v in values] if numeric else values)


def _loaded(name: str | Path, split: str | None, options: dict[str, Any]) -> Any:
    datasets = require("datasets", "datasets", "the source `huggingface`")
    if Path(name).is_dir() and any((Path(name) / f).exists() for f in ("dataset_info.json", "dataset_dict.json")):
        return datasets.load_from_disk(str(name))
    return datasets.load_dataset(str(name), split=split, **options)
