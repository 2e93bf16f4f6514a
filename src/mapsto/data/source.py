"""Sources: record indices -> a batch of fields. Here: what any source owes, and how plain objects become one."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError, nearest

Batch: TypeAlias = dict[str, Any]
Indices: TypeAlias = npt.NDArray[np.int64]


class Source(ABC):
    """Maps an int64 array of record indices (any length, duplicates allowed) to a batch: a dict of fields, records first.

    Subclassing is a convenience: any object with `__len__` and a `__getitem__` of that signature is a source. A source
    may also have `lengths(field, indices)` where record lengths are cheaper to know than records, and `close()`.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, indices: Indices) -> Batch: ...


def is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor; never imports torch (where it is not imported there can be no tensor)."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def record_count(source: Any) -> int:
    """The number of records. Raises DataError where there is none."""
    count = len(source)
    if count < 1:
        raise DataError(f"{type(source).__name__} is empty: a source needs at least one record")
    return count


def check_indices(indices: Indices, records: int, what: str) -> None:
    """Raise DataError where an index is outside [0, records)."""
    if len(indices) and (indices.min() < 0 or indices.max() >= records):
        wrong = indices[(indices < 0) | (indices >= records)][0]
        raise DataError(f"{what}: record {wrong} is out of range; it has {records} records, 0 to {records - 1}")


def field_of(batch: Mapping[str, Any], name: str, who: str) -> Any:
    """One field of a batch. Raises DataError with the nearest name."""
    if name not in batch:
        raise DataError(f"{who}: the batch has no field {name!r}; {nearest(name, batch)}")
    return batch[name]


def lengths_of(values: Any, name: str) -> npt.NDArray[np.int64]:
    """The length of each record of a field: of a list its items' lengths, of a 1-D integer array the values themselves."""
    if is_tensor(values):
        values = values.numpy()
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


def as_source(value: Any) -> Any:
    """Any user object as a source: a dict of arrays, an array, a table, a Hugging Face or torch data set, a sequence.

    Raises DataError where records cannot be addressed by index.
    """
    from .arrays import Arrays
    from .items import Items

    if isinstance(value, Source):
        return value
    if isinstance(value, Mapping):
        return Arrays(**value)
    if isinstance(value, np.ndarray) or is_tensor(value):
        return Arrays(input=value)
    if isinstance(value, (str, bytes)):
        raise DataError(f"source: {value!r} is text; say which source reads it, such as use('text_lines', path={value!r})")
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        raise DataError(
            f"source: a {type(value).__name__} cannot be addressed by record index; it needs __len__ and __getitem__ "
            "(an iterator can be read into a list first)"
        )
    if isinstance(value, tuple) and value and all(isinstance(v, np.ndarray) or is_tensor(v) for v in value):
        raise DataError("source: a tuple of arrays does not name its fields; write {'input': ..., 'target': ...}")
    record_count(value)
    if (adapted := _foreign(value)) is not None:
        return adapted
    return value if is_vectorised(value) else Items(value)


def _foreign(value: Any) -> Any | None:
    """Tables and data sets of known libraries, told by the module of their class so that nothing is imported."""
    library = type(value).__module__.partition(".")[0]
    if library == "pyarrow":
        from .tables import ArrowTable

        return ArrowTable(value)
    if library == "datasets":
        from .huggingface import HuggingFace

        return HuggingFace(value)
    return None


def is_vectorised(value: Any) -> bool:
    """Whether `value[indices]` gathers a batch, rather than `value[i]` one record.

    An attribute `vectorised` decides. Otherwise two records are gathered: a batch must come back, a dict whose fields
    hold two records each, and where single records can be had too, they must be the same ones (an object that
    augments single images would accept an index array and do something else with it).
    """
    declared = getattr(value, "vectorised", None)
    if declared is not None:
        return bool(declared)
    if isinstance(value, Sequence):
        return False
    chosen = np.array([0, len(value) - 1], np.int64)
    try:
        pair = value[chosen]
        if not isinstance(pair, dict) or not pair or any(len(field) != 2 for field in pair.values()):
            return False
    except Exception:  # noqa: BLE001  # whatever a per-record object does with an index array
        return False
    try:
        singles = [value[int(i)] for i in chosen]
    except Exception:  # noqa: BLE001  # a vectorised source need not take a bare integer
        return True
    same = (np.array_equal(single[name], field[i]) for i, single in enumerate(singles) for name, field in pair.items())
    return all(isinstance(single, dict) and single.keys() == pair.keys() for single in singles) and all(same)
