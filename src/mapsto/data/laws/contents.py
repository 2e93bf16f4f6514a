"""What a batch holds, compared exactly: its fields, the key of each of its records, digests of anything."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...core.laws import Undecided
from ...core.native import native_of
from ..source import is_tensor


def fields_of(batch: Any) -> dict[str, Any]:
    """The fields of a batch by name; those of a tuple by number, a bare array is the one field `input`."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, tuple) or (isinstance(batch, list) and batch and all(_is_array(v) for v in batch)):
        return {str(i): value for i, value in enumerate(batch)}
    return {"input": batch}


def size_of(batch: Any) -> int:
    """The number of records of a batch. Raises Undecided where its fields have no axis of records."""
    found = fields_of(batch)
    single = [name for name, values in found.items() if not hasattr(values, "__len__") or np.shape(values) == ()]
    if single:
        raise Undecided(
            f"field {single[0]!r} of a batch is a {type(found[single[0]]).__name__} and has no axis of records: it gives "
            "single records, and batches (first axis: records) are judged; wrap it, as a DataLoader does"
        )
    return len(next(iter(found.values()))) if found else 0


def records_of(batch: Mapping[str, Any], places: Iterable[int]) -> dict[str, Any]:
    """A batch of the records of another at these places, of which nothing is shared with it."""
    chosen = list(places)
    return {f: v[chosen] if isinstance(v, np.ndarray) else [copy.deepcopy(v[i]) for i in chosen] for f, v in batch.items()}


def keys_of(batch: Any, field: str | None = None) -> list[Any]:
    """What tells each record from others: its field `id` (or the one that is named), else a digest of all its fields."""
    found = fields_of(batch)
    records = size_of(batch)
    name = field or ("id" if "id" in found else None)
    if name is not None:
        values = found[name]
        return np.asarray(values).tolist() if _is_array(values) else list(values)
    return ["".join(digest(values[i])[:8] for values in found.values()) for i in range(records)]


def content(batch: Any) -> dict[str, str]:
    """A digest of each field: dtype, shape and bytes of arrays, items of lists."""
    return {name: digest(values) for name, values in sorted(fields_of(batch).items())}


def digest(value: Any) -> str:
    """A digest of any value, the same in any process."""
    made = hashlib.blake2b(digest_size=12)
    _feed(made, value)
    return made.hexdigest()


def _feed(made: Any, value: Any) -> None:
    if (own := native_of(value)) is not None:
        made.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        made.update(own.to_bytes(value))
    elif isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
        array = np.ascontiguousarray(value)
        made.update(f"{array.dtype}{np.shape(value)}".encode())
        made.update(array.tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            made.update(repr(key).encode())
            _feed(made, value[key])
    elif isinstance(value, (str, bytes, int, float, bool, type(None))):
        made.update(f"{type(value).__name__} {value!r}".encode())
    elif isinstance(value, (Sequence, np.ndarray)):
        made.update(f"list {len(value)}".encode())
        for item in value:
            _feed(made, item)
    else:
        try:
            made.update(pickle.dumps(value))
        except Exception:  # noqa: BLE001  # whatever cannot be pickled is told apart by its text
            made.update(repr(value).encode())


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or is_tensor(value)
