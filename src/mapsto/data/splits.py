"""Sources that are parts of a source: drawn, stratified, by group, by time, the last of each, and folds. Nothing is stored.

Parts are computed from the records' number and the fields that are named, so that those of one seed are the same on every
machine, disjoint and complete.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ..core.errors import DataError
from ..core.native import native_of
from ..core.ranges import Count, Share
from ..core.registry import decorator
from .adapt import as_source
from .doors import typed
from .order import Shuffled
from .source import Batch, Indices, Source, check_indices, record_count, record_lengths, record_values

Which = Literal["rest", "held_out"]
Bools = npt.NDArray[np.bool_]
CHUNK = 1 << 16
"""Records that are read at once where a field is asked of a source that knows no field by itself."""


class _Part(Source):
    """The records of a source that are `held_out`, or the `rest`."""

    who = "split"

    def __init__(self, source: Any) -> None:
        self.source = as_source(source)
        self._places: Indices | None = None

    def _keep(self, held: Bools, part: Which) -> None:
        """Raise DataError where a part is empty."""
        if not held.any() or held.all():
            raise DataError(f"{self.who}: {int(held.sum())} of {len(held)} records are held out, which leaves one part empty")
        self._places = np.flatnonzero(held if part == "held_out" else ~held)

    def __len__(self) -> int:
        assert self._places is not None
        return len(self._places)

    def __getitem__(self, indices: Indices) -> Batch:
        batch: Batch = self.source[self._inner(indices)]
        return batch

    def lengths(self, field: str, indices: Indices) -> Indices:
        """The lengths of records by one field, from the source as it knows best."""
        return record_lengths(self.source, field, self._inner(indices))

    def field_values(self, field: str, indices: Indices) -> Any:
        """One field of records, from the source as it knows best."""
        return record_values(self.source, field, self._inner(indices))

    def close(self) -> None:
        """Close the source where it can be closed."""
        if hasattr(self.source, "close"):
            self.source.close()

    def _inner(self, indices: Indices) -> Indices:
        check_indices(indices, len(self), self.who)
        assert self._places is not None
        return self._places[indices]

    def _field(self, name: str, what: str) -> Any:
        """One value a record: an array, or a list."""
        return field_of_all(self.source, name, record_count(self.source), f"{self.who}: {what}")

    def _codes(self, name: str, what: str) -> tuple[Indices, list[Any]]:
        """The number of each record's value among the distinct ones, and those."""
        return codes_of(self._field(name, what))

    def _ranked(self, name: str, what: str) -> Indices:
        """The place of each record's value in the order of values; equal ones share it. Raises DataError for what has none."""
        return ranks_of(self._field(name, what), f"{self.who}: {what}={name!r}")

    def _drawn(self, seed: int, stratify: str | None, least: int) -> Indices:
        """The records in a drawn order, those of a class together where it is stratified. least: records that each needs."""
        count = record_count(self.source)
        order = Shuffled(count, seed)(0, np.arange(count))
        if stratify is None:
            return order
        codes, names = self._codes(stratify, "stratify")
        few = np.bincount(codes).argmin()
        if (has := int((codes == few).sum())) < least:
            raise DataError(
                f"{self.who}: stratify={stratify!r}: the value {names[few]!r} has {has} record(s), and {least} are wanted "
                f"(it has {len(names)} values among {count} records)"
            )
        return order[np.argsort(codes[order], kind="stable")]

    def _grouped(self, groups: str, stratify: str | None, shares: npt.NDArray[np.float64], seed: int) -> Indices:
        """The bin of each record, such that a group is in one: large groups first, each where the least of its share is filled,
        so that groups of every size are in every part as they are in the whole.

        shares: the part of each class that a bin is to have, [bins]. Raises DataError where there are fewer groups than bins.
        """
        codes, names = self._codes(groups, "groups")
        if len(names) < len(shares):
            raise DataError(f"{self.who}: groups={groups!r} has {len(names)} value(s), too few for {len(shares)} parts")
        classes = self._codes(stratify, "stratify")[0] if stratify is not None else np.zeros(len(codes), np.int64)
        table = np.zeros((len(names), int(classes.max()) + 1))  # [groups, classes]
        np.add.at(table, (codes, classes), 1.0)
        table /= table.sum(0)
        drawn = Shuffled(len(names), seed)(0, np.arange(len(names)))
        sizes = np.bincount(codes)
        bins, has = np.empty(len(names), np.int64), np.zeros((len(shares), table.shape[1]))
        for group in drawn[np.argsort(-sizes[drawn], kind="stable")]:
            bins[group] = int((table[group] * has / shares[:, None]).sum(1).argmin())
            has[bins[group]] += table[group]
        return bins[codes]


@decorator("source")("split")
class Split(_Part):
    """Maps indices to the records of one part of a source: those that are `held_out`, or the `rest`.

    fraction: of the records, held out. Which ones: drawn by `seed`; `stratify`: drawn so that each value of this field has
    its share in both parts (within one record); `groups`: records of one value of this field stay together, and the fraction
    is met as nearly as they allow, with `stratify` of each class; `by`: the last ones in the order of this field (numbers,
    dates, text), where equal values stay together; `groups`, `by` and `last`: of each group the last so many, where it has
    more than these (the others stand in the rest). A third part is a split of the rest. Raises DataError where a part is
    empty, a class or group has too few records, or a field holds no single, orderable value a record.
    """

    @typed
    def __init__(
        self,
        source: Any,
        part: Which,
        fraction: Share = 0.1,
        seed: int = 0,
        *,
        stratify: str | None = None,
        groups: str | None = None,
        by: str | None = None,
        last: Count | None = None,
    ) -> None:
        super().__init__(source)
        count = record_count(self.source)
        held = round(count * fraction)
        self._left = 0
        if last is not None:
            if groups is None or by is None or stratify is not None:
                raise DataError("split: last goes with groups (whose) and by (in which order), and with nothing else")
            self._keep(self._last(groups, by, last), part)
            return
        if by is not None and (groups is not None or stratify is not None):
            raise DataError("split: by, the order of a field, goes with groups only where `last` says how many of each")
        if not 0 < held < count:
            raise DataError(f"split: a fraction of {fraction} of {count} records leaves one part empty")
        if by is not None:
            self._keep(self._latest(by, held), part)
        elif groups is not None:
            bins = self._grouped(groups, stratify, np.array([1.0 - fraction, fraction]), seed)
            self._keep(bins == 1, part)
        elif stratify is not None:
            drawn = self._drawn(seed, stratify, 2)
            steps = np.floor(np.arange(count + 1) * (held / count) + 0.5)
            chosen = np.zeros(count, np.bool_)
            chosen[drawn] = np.diff(steps) > 0
            self._keep(chosen, part)
        else:  # a computed permutation: nothing is stored
            self._order = Shuffled(count, seed)
            self._start, self._count = (0, held) if part == "held_out" else (held, count - held)

    def __len__(self) -> int:
        return self._count if self._places is None else len(self._places)

    def notes(self) -> list[str]:
        """How many groups had too few records to hold any out."""
        return [f"split: {self._left} groups have no record held out, since they have too few"] if self._left else []

    def _inner(self, indices: Indices) -> Indices:
        if self._places is not None:
            return super()._inner(indices)
        check_indices(indices, self._count, "split")
        return self._order(0, indices + self._start)

    def _latest(self, by: str, held: int) -> Bools:
        ranks = self._ranked(by, "by")
        before = np.concatenate([[0], np.cumsum(np.bincount(ranks))])  # records before each value, and in all
        cuts = before[1:-1]
        if not len(cuts):
            raise DataError(f"split: by={by!r} has one value, so that there is no last part")
        return ranks >= 1 + int(np.abs(cuts - (len(ranks) - held)).argmin())

    def _last(self, groups: str, by: str, last: int) -> Bools:
        codes, _ = self._codes(groups, "groups")
        order = np.lexsort((self._ranked(by, "by"), codes))  # of equal values the one that lies later is later
        sizes = np.bincount(codes)
        after = np.cumsum(sizes)[codes[order]] - 1 - np.arange(len(codes))  # records of the group that come later
        held = np.zeros(len(codes), np.bool_)
        held[order] = (after < last) & (sizes[codes[order]] > last)
        self._left = int((sizes <= last).sum())
        return held


@decorator("source")("fold")
class Fold(_Part):
    """Maps indices to the records of one fold of a source (`held_out`), or of all the others (`rest`).

    fold: 1 to `of`. Folds are drawn by `seed` and of equal size (within one record); `stratify`: each value of this field has
    its share in every fold (within one record); `groups`: records of one value of this field are in one fold, and sizes (with
    `stratify`, those of each class) as equal as they allow. A fold within a fold is a `fold` whose source is the rest of one.
    Raises DataError where there are too few records, classes or groups.
    """

    who = "fold"

    @typed
    def __init__(
        self,
        source: Any,
        part: Which,
        fold: Count,
        of: Annotated[int, Field(ge=2)] = 5,
        seed: int = 0,
        *,
        stratify: str | None = None,
        groups: str | None = None,
    ) -> None:
        super().__init__(source)
        count = record_count(self.source)
        if fold > of:
            raise DataError(f"fold: there is no fold {fold} of {of}; they are 1 to {of}")
        if count < of:
            raise DataError(f"fold: {count} records are too few for {of} folds")
        if groups is not None:
            numbers = self._grouped(groups, stratify, np.full(of, 1.0 / of), seed)
        else:
            numbers = np.empty(count, np.int64)
            numbers[self._drawn(seed, stratify, of)] = np.arange(count) % of
        self._keep(numbers == fold - 1, part)


# -- fields --------------------------------------------------------------------------------------------------------------
def field_of_all(source: Any, name: str, count: int, what: str) -> Any:
    """One value of a field for each of the first `count` records: an array, or a list. Raises DataError where it is not one."""
    found = []
    for start in range(0, count, CHUNK):
        values = record_values(source, name, np.arange(start, min(start + CHUNK, count)))
        own = native_of(values)
        found.append(own.to_numpy(values) if own is not None else values)
    if any(isinstance(piece, list) for piece in found):
        values = [value for piece in found for value in piece]
        if any(np.ndim(value) for value in values):
            raise DataError(f"{what}={name!r} is a field of lists or arrays, and one value a record is wanted")
        return values
    whole = np.concatenate(found)
    if whole.ndim > 1 and whole[0].size == 1:
        whole = whole.reshape(len(whole))
    if whole.ndim > 1:
        raise DataError(f"{what}={name!r} has records of shape {whole.shape[1:]}, and one value a record is wanted")
    return whole


def codes_of(values: Any) -> tuple[Indices, list[Any]]:
    """The number of each record's value among the distinct ones, and those."""
    if isinstance(values, list):
        numbers: dict[Any, int] = {}
        return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64), list(numbers)
    distinct, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64).reshape(-1), distinct.tolist()


def ranks_of(values: Any, what: str) -> Indices:
    """The place of each record's value in the order of values; equal ones share it. Raises DataError for what has none."""
    if isinstance(values, list):
        kinds = {type(value).__name__ for value in values}
        if len(kinds) > 1 or "NoneType" in kinds:
            raise DataError(f"{what} holds {' and '.join(sorted(kinds))}, which have no order")
        values = np.array(values)
    if values.dtype.kind in "fmM" and bool((values != values).any()):
        missing = int(np.flatnonzero(values != values)[0])
        raise DataError(f"{what} has no value at record {missing}, which therefore has no place")
    ranks: Indices = np.unique(values, return_inverse=True)[1].astype(np.int64).reshape(-1)
    return ranks
