"""Adapting: any user object as a source, told apart without importing the library it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import DataError
from .arrays import Arrays
from .items import Items
from .source import Source, is_tensor, record_count


def as_source(value: Any) -> Any:
    """Any user object as a source: a dict of arrays, an array, a table, a Hugging Face or torch data set, a sequence.

    Raises DataError where records cannot be addressed by index.
    """
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
