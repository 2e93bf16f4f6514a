"""Sources: record indices -> a batch of fields. Here: what any source owes, and how plain objects become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError, nearest
from ..core.native import native_of, wing_of_array

Batch: TypeAlias = dict[str, Any]
Indices: TypeAlias = npt.NDArray[np.int64]


class Source(ABC):
    """Maps an int64 array of record indices (any length, duplicates allowed) to a batch: a dict of fields, records first.

    Subclassing is a convenience: any object with `__len__` and a `__getitem__` of that signature is a source. A source may
    also have `lengths(field, indices)` and `field_values(field, indices)` where record lengths, or one field, are cheaper to
    know than records, `notes()`, sentences on what it left out that belong into a run's report, and `close()`.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, indices: Indices) -> Batch: ...


def sources_within(value: Any) -> Iterator[Any]:
    """A reader's or a source's own sources, outermost first: what stands under `source` and `sources`, at any depth."""
    yield value
    for inner in (getattr(value, "source", None), *(getattr(value, "sources", None) or ())):
        if inner is not None and not isinstance(inner, (str, bytes)):
            yield from sources_within(inner)


def notes_of(reader: Any) -> list[str]:
    """What the sources of a reader tell of themselves that belongs into a run's report."""
    return [note for source in sources_within(reader) if hasattr(source, "notes") for note in source.notes()]


def is_tensor(value: Any) -> bool:
    """Whether `value` is an array of a framework; imports none (where it is not imported there can be no such array)."""
    return bool(wing_of_array(value))


def record_count(source: Any) -> int:
    """The number of records. Raises DataError where there is none."""
    count = len(source)
    if count < 1:
        raise DataError(f"{type(source).__name__} is empty: a source needs at least one record")
    return count


def check_indices(indices: Indices, records: int, what: str) -> None:
    """Raise DataError where these are no record indices, or one is outside [0, records)."""
    are_indices(indices, what)
    if len(indices) and (indices.min() < 0 or indices.max() >= records):
        wrong = indices[(indices < 0) | (indices >= records)][0]
        raise DataError(f"{what}: record {wrong} is out of range; it has {records} records, 0 to {records - 1}")


def are_indices(indices: Any, what: str) -> None:
    """Raise DataError for anything but a one-dimensional array of whole numbers."""
    if not isinstance(indices, np.ndarray) or indices.ndim != 1 or indices.dtype.kind not in "iu":
        array = isinstance(indices, np.ndarray)
        given = f"an array of {indices.dtype}, shape {indices.shape}" if array else f"{indices!r:.60}"
        raise DataError(f"{what}: record indices are a 1-D array of whole numbers, such as np.array([0]), not {given}")


def check_batch(batch: Any, records: int, source: Any) -> None:
    """Raise DataError where what a source gave is no batch of so many records."""
    if not isinstance(batch, Mapping):
        raise DataError(f"source {type(source).__name__}: a batch is a dict of fields, and it gave a {type(batch).__name__}")
    if not batch:
        raise DataError(f"source {type(source).__name__}: a batch without a field was given")
    for name, values in batch.items():
        if len(values) != records:
            raise DataError(f"source {type(source).__name__}: field {name!r} has {len(values)} records for {records} indices")


def check_fields(batch: Any, who: str) -> None:
    """Raise DataError where what a transform gave is no batch: not a dict of fields, or fields of different lengths."""
    if type(batch) is not dict and not isinstance(batch, Mapping):
        raise DataError(f"{who} returned a {type(batch).__name__}, and a batch, a dict of fields, is wanted")
    try:
        counts = [*map(len, batch.values())]
    except TypeError:
        name, value = next((n, v) for n, v in batch.items() if not hasattr(v, "__len__") or np.ndim(v) == 0)
        raise DataError(f"{who}: field {name!r} is a {type(value).__name__}, and one value a record is wanted") from None
    if counts and counts.count(counts[0]) != len(counts):
        told = ", ".join(f"{count} of {name!r}" for name, count in zip(batch, counts, strict=True))
        raise DataError(f"{who}: its fields are of different lengths, so that records are torn apart: {told}")


def field_of(batch: Mapping[str, Any], name: str, who: str) -> Any:
    """One field of a batch. Raises DataError with the nearest name."""
    if name not in batch:
        raise DataError(f"{who}: the batch has no field {name!r}; {nearest(name, batch)}")
    return batch[name]


def lengths_of(values: Any, name: str) -> npt.NDArray[np.int64]:
    """The length of each record of a field: of a list its items' lengths, of a 1-D integer array the values themselves."""
    if (own := native_of(values)) is not None:
        values = own.to_numpy(values)
    if isinstance(values, np.ndarray) and values.dtype != object:
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            shape = f"{values.dtype} array of shape {values.shape}"
            raise DataError(f"field {name!r} is a {shape}: its records have no length to sort by (name another field)")
        return values.astype(np.int64)
    try:
        return np.fromiter(map(len, values), np.int64, len(values))
    except TypeError:
        raise DataError(f"field {name!r} holds {type(values[0]).__name__} values, which have no length") from None


def record_lengths(source: Any, field: str, indices: Indices) -> npt.NDArray[np.int64]:
    """The lengths of the records at `indices` by one field, without reading the records where the source knows better."""
    if hasattr(source, "lengths"):
        found: npt.NDArray[np.int64] = source.lengths(field, indices)
        return found
    return lengths_of(field_of(source[indices], field, type(source).__name__), field)


def record_values(source: Any, field: str, indices: Indices) -> Any:
    """One field of the records at `indices`, without reading the rest of them where the source knows it by itself."""
    if hasattr(source, "field_values"):
        return source.field_values(field, indices)
    return field_of(source[indices], field, type(source).__name__)
