"""Fitted transforms: they learn from the training records before they map anything.

One has a method `fit(source)` and an attribute `learned`, None until then. `fit` returns what it learns as JSON data and
changes nothing; whoever calls it puts that into `learned`, fresh or from a run folder, and the transform maps by it alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.native import native_of
from ..core.random import generator
from ..core.values import Part, as_part
from .source import Batch, Indices, Source, check_fields, field_of

CHUNK = 4096
"""Records that are read at once to learn from."""


def learns(transform: Any) -> bool:
    """Whether a transform is one that is fitted."""
    return callable(getattr(transform, "fit", None)) and hasattr(transform, "learned")


def waits(transform: Any) -> bool:
    """Whether a transform has yet to be fitted."""
    return learns(transform) and transform.learned is None


def name_of(transform: Any) -> str:
    return f"transform {getattr(transform, '__name__', type(transform).__name__)}"


def learned(transform: Any) -> Mapping[str, Any]:
    """What a transform has learned. Raises DataError where it was not fitted."""
    if transform.learned is None:
        raise DataError(
            f"{name_of(transform)} learns from the training records and has not yet: a run fits it on data.train; elsewhere "
            "call fit() of the training reader, and give its transforms to the others"
        )
    found: Mapping[str, Any] = transform.learned
    return found


def fit(reader: Any) -> Any:
    """The reader, whose transforms that wait are fitted, one after another, on its records as those before leave them."""
    for index, transform in enumerate(getattr(reader, "transforms", ())):
        if waits(transform):
            transform.learned = learned_by(transform, _Before(reader, index))
    return reader


def learned_by(transform: Any, source: Any) -> Mapping[str, Any]:
    """What a transform learns from a source, as a file gives it back. Raises DataError where that is no JSON mapping."""
    found = transform.fit(source)
    try:
        kept = json.loads(json.dumps(found))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name_of(transform)}: what fit returns is kept as JSON, and this cannot be: {error}") from None
    if not isinstance(kept, dict):
        raise DataError(f"{name_of(transform)}: fit returns a mapping of what it learned, not a {type(found).__name__}")
    return kept


class _Before(Source):
    """The records of a reader as its transforms before `index` leave them, each once; what these draw is fixed."""

    def __init__(self, reader: Any, index: int) -> None:
        self._reader, self._index = reader, index

    def __len__(self) -> int:
        return int(self._reader.source_records)

    def __getitem__(self, indices: Indices) -> Batch:
        batch: Batch = self._reader.source[indices]
        for place, transform in enumerate(self._reader.transforms[: self._index]):
            drawn = self._reader._draws[place]
            key = int(indices[0]) if len(indices) else 0
            batch = transform(batch, **({"rng": generator(self._reader.seed, "fit", place, key)} if drawn else {}))
            check_fields(batch, name_of(transform))
        return batch


def counterparts(training: Any, other: Any, path: str) -> dict[int, int]:
    """Place among a reader's transforms -> that of the same one, as the spec states them, among those of the training reader.

    Of equal ones the first stands for the first. Raises DataError for one that the training reader has not.
    """
    theirs, found = list(stated(training)), dict[int, int]()
    for place, transform in other:
        same = [i for i, t in enumerate(theirs) if (t is transform or (isinstance(t, Part) and t == transform))]
        free = [i for i in same if i not in found.values()]
        if not free:
            named = transform.name if isinstance(transform, Part) else type(transform).__name__
            there = ", ".join(t.name if isinstance(t, Part) else type(t).__name__ for t in theirs) or "none"
            raise DataError(
                f"{path}.transforms.{place}: {named} is fitted on data.train, whose transforms hold no such one (there: "
                f"{there}); write it there too, with the same arguments"
            )
        found[place] = free[0]
    return found


def stated(reader: Any) -> list[Any]:
    """The transforms of a reader, as a spec states them or as they are."""
    said = reader.args.get("transforms", ()) if isinstance(reader, Part) else getattr(reader, "transforms", ())
    listed = [said] if callable(said) or isinstance(said, (str, Part)) else said
    return [as_part(t) for t in listed]


# -- reading a source --------------------------------------------------------------------------------------------------
def chunks(source: Any) -> Iterator[Batch]:
    """All records of a source, in batches."""
    for start in range(0, len(source), CHUNK):
        yield source[np.arange(start, min(start + CHUNK, len(source)), dtype=np.int64)]


def values_of(source: Any, field: str, who: str) -> Any:
    """A field of all records: an array, or a list where it is one of Python objects. Raises DataError for a missing field."""
    pieces = [as_values(field_of(batch, field, who)) for batch in chunks(source)]
    if any(isinstance(piece, list) for piece in pieces):
        return [value for piece in pieces for value in piece]
    return np.concatenate(pieces)


def as_values(values: Any) -> Any:
    """A field of a batch: a list as it is, anything else as a NumPy array."""
    own = native_of(values)
    return own.to_numpy(values) if own is not None else values if isinstance(values, list) else np.asarray(values)


def names(fields: Sequence[str] | str) -> tuple[str, ...]:
    """Fields: a text is the name of one."""
    return (fields,) if isinstance(fields, str) else tuple(fields)


def distinct(values: Iterable[Any]) -> list[Any]:
    """The different values in order, without missing ones (None and NaN); those that have no order in that of their text."""
    found = {v for v in (values.tolist() if isinstance(values, np.ndarray) else values) if v is not None and v == v}
    try:
        return sorted(found)
    except TypeError:
        return sorted(found, key=lambda value: (type(value).__name__, str(value)))
