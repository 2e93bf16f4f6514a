"""Sources made of sources: one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest
from ..core.native import native, native_of, wing_of_array
from ..core.registry import decorator
from .adapt import as_source
from .class_folders import same_classes
from .source import Batch, Indices, Source, check_indices, field_of, is_tensor, record_count, record_lengths, record_values


@decorator("source")("concatenated")
class Concatenated(Source):
    """Maps indices to the records of several sources, one after another; their fields must have the same names, and are
    of the type that holds those of all.

    Raises DataError naming the field that one of them lacks, and where folders of classes number them differently.
    """

    def __init__(self, sources: Sequence[Any]) -> None:
        if not sources:
            raise DataError("concatenated: no source was given")
        self.sources = [as_source(s) for s in sources]
        self.counts = [record_count(s) for s in self.sources]
        self.starts = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        firsts = [s[np.zeros(1, np.int64)] for s in self.sources]
        names = [list(first) for first in firsts]
        for i, other in enumerate(names):
            for name in set(names[0]) ^ set(other):
                has, lacks = (0, i) if name in names[0] else (i, 0)
                raise DataError(f"source {lacks} has no field {name!r}, which source {has} has; {nearest(name, names[lacks])}")
        self.names = names[0]
        self._like = {name: concatenate([first[name] for first in firsts], name) for name in self.names}
        same_classes(self.sources)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, len(self), "concatenated")
        pieces: list[Batch] = []
        where = []
        for number, (chosen, here) in enumerate(self._split(indices)):
            if len(here) or (number == 0 and not len(indices)):
                pieces.append(self.sources[number][chosen])
                where.append(here)
        pieces = [{name: _fitted(piece[name], self._like[name], name) for name in self.names} for piece in pieces]
        if len(pieces) == 1:
            return pieces[0]
        back = np.argsort(np.concatenate(where), kind="stable")
        return {name: _ordered(concatenate([piece[name] for piece in pieces], name), back) for name in self.names}

    def lengths(self, field: str, indices: Indices) -> Indices:
        """The lengths of records by one field, from each source as it knows best."""
        found = np.empty(len(indices), np.int64)
        for source, (chosen, here) in zip(self.sources, self._split(indices), strict=True):
            if len(here):
                found[here] = record_lengths(source, field, chosen)
        return found

    def field_values(self, field: str, indices: Indices) -> Any:
        """One field of records, from each source as it knows best. Raises DataError where there is no such field."""
        like = field_of(self._like, field, "concatenated")
        pieces, where = [], []
        for source, (chosen, here) in zip(self.sources, self._split(indices), strict=True):
            if len(here):
                pieces.append(_fitted(record_values(source, field, chosen), like, field))
                where.append(here)
        return _ordered(concatenate(pieces, field), np.argsort(np.concatenate(where), kind="stable"))

    def close(self) -> None:
        """Close the sources that can be closed."""
        for source in self.sources:
            if hasattr(source, "close"):
                source.close()

    def _split(self, indices: Indices) -> list[tuple[Indices, Indices]]:
        """For each source the indices within it, and the places in the batch that they belong to."""
        number = np.searchsorted(self.starts, indices, side="right") - 1
        places = [np.flatnonzero(number == i) for i in range(len(self.sources))]
        return [(indices[here] - self.starts[i], here) for i, here in enumerate(places)]


def _fitted(values: Any, like: Any, name: str) -> Any:
    """A piece of a field in the type of all sources, which a batch has whatever sources its records are of.

    Raises DataError for a whole number that the common type does not keep.
    """
    if isinstance(like, list) or (isinstance(values, list) and not is_tensor(like)):
        return list(values)
    if (own := native_of(like)) is not None:
        return own.cast(values, like.dtype)
    values = np.asarray(values)
    if like.dtype.kind in "US" or values.dtype == like.dtype:
        return values
    cast = values.astype(like.dtype)
    if values.dtype.kind in "iu" and not np.array_equal(cast.astype(values.dtype), values):
        raise DataError(f"field {name!r} holds a whole number that {like.dtype}, the type of all sources, does not keep")
    return cast


def concatenate(pieces: list[Any], name: str) -> Any:
    """Pieces of one field one after another. Raises DataError naming the field where their records differ in shape, or some
    are text and others numbers.
    """
    if len(pieces) == 1:
        return pieces[0]
    if any(isinstance(p, list) for p in pieces) and all(isinstance(p, list) or p.ndim > 1 for p in pieces):
        return [value for piece in pieces for value in piece]
    if any(map(_is_text, pieces)) and any(hasattr(p, "dtype") and not _is_text(p) for p in pieces):
        raise DataError(f"field {name!r} is text in one of the sources that are joined, and numbers in another")
    try:
        if len(wings := {*map(wing_of_array, pieces)}) == 1 and (wing := wings.pop()):
            return native(wing).concatenate(pieces)
        return np.concatenate([np.asarray(p) for p in pieces])
    except (ValueError, RuntimeError):
        shapes = ", ".join(str(tuple(np.shape(p)[1:])) for p in pieces)
        raise DataError(f"field {name!r} has records of different shapes in the pieces that are joined: {shapes}") from None


def _is_text(piece: Any) -> bool:
    if isinstance(piece, list):
        return any(isinstance(value, (str, bytes)) for value in piece)
    return isinstance(piece, np.ndarray) and piece.dtype.kind in "US"


def _ordered(values: Any, order: Indices) -> Any:
    """The records of a field in `order`."""
    if isinstance(values, list):
        return [values[i] for i in order.tolist()]
    own = native_of(values)
    return own.take(values, order) if own is not None else values.take(order, axis=0)
