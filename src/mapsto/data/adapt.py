"""Adapting: any user object as a source, told apart without importing the library it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import DataError, MapstoError
from ..core.native import loaded
from ..core.parts import build
from ..core.registry import registry
from ..core.values import Part
from .arrays import Arrays
from .items import Items
from .source import Source, is_tensor, record_count


def as_source(value: Any, *, claimed: bool = False) -> Any:
    """Any user object as a source: a dict of arrays, an array, a table, a Hugging Face or torch data set, a sequence.

    claimed: whether it is known to be of a class that is stated to be a source, registered or not (see `gathers`).
    Raises DataError where records cannot be addressed by index.
    """
    if isinstance(value, Source):
        return value
    if isinstance(value, Part):
        return as_source(build(value, "source", path="source"), claimed=claimed)
    if isinstance(value, Mapping) and _library(value) != "datasets":
        if odd := [name for name in value if not isinstance(name, str)]:
            raise DataError(f"source: a field is named by text, and {odd[0]!r} is none; write {{'input': ..., 'target': ...}}")
        return Arrays(**value)
    if isinstance(value, type):
        raise DataError(f"source: {value.__name__} is a class; give an object of it, {value.__name__}(...)")
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
    return value if gathers(value, claimed=claimed) else Items(value)


def _foreign(value: Any) -> Any | None:
    """Tables and data sets of known libraries, told by the module of their class so that nothing is imported."""
    library = _library(value)
    if library == "pandas" and hasattr(value, "columns"):
        if not value.columns.is_unique:
            raise DataError("source: two columns of the DataFrame have one name")
        return Arrays(**{str(name): value[name] for name in value.columns})
    if library == "pandas":  # whose [] reads by label, wherever the record stands
        return Arrays(input=value)
    if library == "pyarrow":
        from .tables import ArrowTable

        return ArrowTable(value)
    if library == "datasets":
        from .huggingface import HuggingFace

        return HuggingFace(value)
    return None


def _library(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def gathers(value: Any, *, claimed: bool = False) -> bool:
    """Whether `value[indices]` gathers a batch, rather than `value[i]` one record.

    An attribute `vectorised` says it. Sequences and torch data sets read one record an index; what is registered as a
    source (or is claimed to be one) gathers, if it answers index arrays with batches. Of any other object that does,
    single records are asked for too, and must be the same ones where they can be had: an object that augments single
    images would take an index array and do something else with it. Raises DataError with both shapes where the answers
    disagree.
    """
    declared = getattr(value, "vectorised", None)
    if declared is not None:
        return bool(declared)
    claimed = claimed or registry.name_of("source", type(value)) is not None
    if not claimed and (isinstance(value, Sequence) or hasattr(value, "__getitems__") or _of_framework(value)):
        return False
    asked = [np.resize(np.array([0, len(value) - 1], np.int64), count) for count in (2, 3)]  # no other axis is of both sizes
    try:
        batches = [value[indices.copy()] for indices in asked]
    except Exception as error:  # noqa: BLE001  # whatever a per-record object does with an index array
        _one(value, error)
        return False
    if not all(isinstance(batch, Mapping) and batch for batch in batches):
        _one(value, None)
        return False
    right = [all(_count(b[n]) == len(i) for b, i in zip(batches, asked, strict=True) if n in b) for n in batches[0]]
    if all(right):
        return claimed or _agree(value, batches[1], asked[1])
    if claimed or any(right):
        raise _disagreement(value, asked[1], batches[1], "so not every field holds a record an index")
    _one(value, None)
    return False


def _one(value: Any, refused: Exception | None) -> Any:
    """One record by its index. Raises DataError where neither an index array (`refused`) nor an index is taken."""
    try:
        return value[0]
    except Exception as error:
        if isinstance(refused or error, MapstoError):
            raise refused or error from None
        told = [f"{type(e).__name__}: {str(e)[:100]}" for e in (refused, error) if e is not None]
        also = f"neither an array of record indices ({told[0]}) nor" if refused is not None else "no"
        raise DataError(f"source {type(value).__name__}: it takes {also} one index ({told[-1]})") from error


def _agree(value: Any, batch: Mapping[str, Any], indices: Any) -> bool:
    """True where single indices give the records of the batch, or nothing at all. Raises DataError where they give others."""
    try:
        singles = [value[int(i)] for i in indices]
    except Exception:  # noqa: BLE001  # what gathers need not take a bare integer
        return True
    for i, single in enumerate(singles):
        same = isinstance(single, Mapping) and single.keys() == batch.keys()
        if not same or not all(equal(single[name], field[i]) for name, field in batch.items()):
            said = f"and for the index {indices[i]} {_shapes(single)}, which is not record {i} of those"
            raise _disagreement(value, indices, batch, said)
    return True


def _disagreement(value: Any, indices: Any, batch: Mapping[str, Any], said: str) -> DataError:
    return DataError(
        f"source {type(value).__name__}: for the indices {indices.tolist()} it gives {_shapes(batch)}, {said}. Write on its "
        "class `vectorised = True` where it gathers the records of an index array, `vectorised = False` where it reads one "
        "record an index"
    )


def equal(one: Any, other: Any) -> bool:
    """Whether two values of a record are the same, NaN being equal to itself."""
    try:
        return bool(np.array_equal(one, other, equal_nan=True))
    except (TypeError, ValueError):  # no numbers
        try:
            return bool(np.array_equal(one, other))
        except (TypeError, ValueError):
            return bool(one is other)


def _shapes(found: Any) -> str:
    """The fields of a batch or record with their shapes, for an error."""
    if not isinstance(found, Mapping):
        return f"{type(found).__name__} {list(np.shape(found))}" if hasattr(found, "shape") else type(found).__name__
    return ", ".join(f"{name} {list(v.shape) if hasattr(v, 'shape') else type(v).__name__}" for name, v in found.items())


def _count(values: Any) -> int:
    try:
        return len(values)
    except TypeError:
        return -1


def _of_framework(value: Any) -> bool:
    """Whether it is a data set of a framework that is loaded."""
    return any(own.is_dataset(value) for own in loaded().values())
