"""Hugging Face data sets as a source."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest, require
from ..core.registry import decorator
from .batches import batch_of
from .doors import listed, typed
from .fields import Field, Settling, Types
from .items import SAMPLE
from .source import Batch, Indices, Source, check_indices, record_count


@decorator("source")("huggingface")
class HuggingFace(Source):
    """Maps indices to rows of a `datasets.Dataset`: one given, one saved with `save_to_disk`, or one loaded by name.

    split: of a data set that has several; fields: the columns to keep, or a mapping of field names to columns; types,
    missing: as of `items`; options: for `datasets.load_dataset`.
    Raises DataError with the nearest split or column, MissingExtra without `datasets`.
    """

    @typed
    def __init__(
        self,
        data: Any,
        split: str | None = None,
        fields: Mapping[str, str] | Sequence[str] | str | None = None,
        *,
        types: Mapping[str, Any] | None = None,
        missing: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        data = _loaded(data, split, options) if isinstance(data, (str, Path)) else data
        if isinstance(data, Mapping):
            if split is None:
                raise DataError(f"huggingface: the data set has several splits; say one of {', '.join(map(str, data))}")
            if split not in data:
                raise DataError(f"huggingface: the data set has no split {split!r}; {nearest(str(split), data)}")
            data = data[split]
        if not hasattr(data, "column_names") or not hasattr(data, "__len__"):
            raise DataError(f"huggingface: a {type(data).__name__} has no record indices; a map-style Dataset is wanted")
        self.data = data
        there = list(data[[0]]) if _transformed(data) else data.column_names
        columns, self._asked = there if fields is None else listed(fields), fields is not None
        self.columns = dict(columns) if isinstance(columns, Mapping) else {c: c for c in columns}
        for name in self.columns.values():
            if name not in there:
                raise DataError(f"huggingface: there is no column {name!r}; {nearest(name, there)}")
        self._count = record_count(data)
        self._types = Types("huggingface", types, missing)
        self._settled: dict[str, Field] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, self._count, "huggingface")
        if self._settled is None:
            self._settled = self._infer_fields()
        chosen = indices.tolist()
        rows = self.data[chosen or [0]]
        batch: Batch = {}
        for field, name in self.columns.items():
            values = rows[name]
            if isinstance(values, list):  # else one of the library's own formats, which has a type
                values = batch_of(
                    field,
                    self._settled[field],
                    values[: len(chosen)],
                    self._types,
                    lambda i: f"huggingface: record {chosen[i]}",
                )
            batch[field] = values[: len(chosen)]
        return batch

    def _infer_fields(self) -> dict[str, Field]:
        """The types of fields that come as lists, by records that are spread over the data set."""
        seen = np.unique(np.linspace(0, self._count - 1, SAMPLE).astype(int)).tolist()
        rows, settling = self.data[seen], Settling(self._types)
        for field, name in self.columns.items():
            if isinstance(rows[name], list):
                for i, value in zip(seen, rows[name], strict=True):
                    settling.see(field, value, functools.partial("huggingface: record {}".format, i))
        return settling.done(asked=self._asked)


def _transformed(data: Any) -> bool:
    """Whether a function of the user's own makes the columns (`with_transform`)."""
    said = getattr(data, "format", None)
    return isinstance(said, Mapping) and said.get("type") == "custom" and len(data) > 0


def _loaded(name: str | Path, split: str | None, options: dict[str, Any]) -> Any:
    datasets = require("datasets", "datasets", "the source `huggingface`")
    if Path(name).is_dir() and any((Path(name) / f).exists() for f in ("dataset_info.json", "dataset_dict.json")):
        return datasets.load_from_disk(str(name))
    try:
        return datasets.load_dataset(str(name), split=split, **options)
    except (FileNotFoundError, ConnectionError) as error:
        raise DataError(f"huggingface: {name} cannot be loaded: {' '.join(str(error).split())}") from error
