"""The summary that a survey of the data writes into the run folder: frozen values of counts, figures and record numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...core.errors import SpecError
from ...core.typed import validated


@dataclass(frozen=True)
class FieldSummary:
    """One field over the records that were looked at.

    kind: `number`, `text` or `other`; tail: the shape of one record. Of numbers: nonfinite, records with a value that is not
    finite, and examples of them; mean, std, rms, low, high, of the finite values; columns (of records of one axis, or none):
    constant, those that hold one value (column, value), largest and median, the root mean square of columns, and the
    column of the largest; flat: records whose elements are all equal; same:
    whether all records are equal. Of text: empty, records of nothing but blanks.
    """

    kind: str
    dtype: str
    records: int
    tail: list[int] | None = None
    nonfinite: int = 0
    examples: list[int] = field(default_factory=list)
    mean: float | None = None
    std: float | None = None
    rms: float | None = None
    low: float | None = None
    high: float | None = None
    columns: int = 0
    constant: list[tuple[int, float]] = field(default_factory=list)
    largest: tuple[int, float] | None = None
    median: float | None = None
    flat: int = 0
    empty: int = 0
    same: bool = False


@dataclass(frozen=True)
class Label:
    """Something in the input that is the label. how: `one-to-one`, `correlated`, `identical` or `in the text`; columns: of the
    field, at most 8 of them; whole: whether it tells every class apart; records: over how many it holds."""

    field: str
    how: str
    columns: list[int]
    whole: bool
    records: int


@dataclass(frozen=True)
class Repeats:
    """Records whose input another record has too. repeats: how many came earlier in the same set; contrary: of them, those
    with another target; bits: about how much a record can say (equal ones are chance where that is little); examples: pairs
    of record numbers; alike: records with an equal one among the others."""

    records: int
    repeats: int
    alike: int
    contrary: int
    bits: float
    examples: list[tuple[int, int]]


@dataclass(frozen=True)
class Overlap:
    """Records of a set whose input is among the `read` training records, of `held` that there are. examples: (here, there)."""

    records: int
    found: int
    read: int
    held: int
    examples: list[tuple[int, int]]


@dataclass(frozen=True)
class Classes:
    """Targets that are classes: how many records each has, the commonest first (100 at most), of `distinct`; run: the share
    of pairs within a batch that have one class, in the order that is trained in, and `chance`, of pairs of all records."""

    counts: list[tuple[str, int]]
    distinct: int
    records: int
    run: float | None = None
    chance: float | None = None


@dataclass(frozen=True)
class SetSummary:
    """One set. records: it holds; read: of them, as the source gives them (before transforms)."""

    records: int
    read: int = 0
    raw: dict[str, FieldSummary] = field(default_factory=dict)
    fields: dict[str, FieldSummary] = field(default_factory=dict)
    batches: int = 0
    repeats: Repeats | None = None
    overlap: Overlap | None = None
    classes: Classes | None = None
    labels: list[Label] = field(default_factory=list)


@dataclass(frozen=True)
class Repeated:
    """Some records evaluated once (`once`) and twice in a row (`twice`, the mean of both): the loss of each; training: modules
    in training mode meanwhile; moved: those whose running statistics it changed."""

    once: float | None = None
    twice: float | None = None
    training: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SurveySummary:
    """All of it. inputs, target: the fields of a batch that the task reads, where it tells them (`stated`); embeddings: ids
    that each table of the model takes; normalises: whether the model begins with a normalisation; seconds: what
    it took; problems: why something could not be looked at."""

    inputs: list[str]
    target: str
    stated: bool
    sets: dict[str, SetSummary]
    embeddings: dict[str, int] = field(default_factory=dict)
    normalises: bool = False
    evaluation: Repeated | None = None
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def survey_of(data: Any) -> SurveySummary | None:
    """What a run folder's file holds; None where it holds none, or something else."""
    if not isinstance(data, dict) or not data:
        return None
    try:
        found = validated(data, SurveySummary, "data.json")
    except SpecError:
        return None
    return found if isinstance(found, SurveySummary) else None
