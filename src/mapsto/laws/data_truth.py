"""Laws of what the author of a transform or a source states of its contents: a reference, and relations between its calls."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.calls import called, defaults_of
from ..core.laws import Laws, Trial
from ..data.laws.contents import content, fields_of
from ..data.laws.examples import apply, batches_for, source_of, transform_of
from .search import searched
from .truth import agrees, drawn_or_hard, holds, options, stated, varied

laws = Laws("transform")
source_laws = Laws("source")

SIZES = (3, 1, 5)


@laws.law(
    "D17",
    "reference",
    priority=0,
    tolerance="T5",
    why="A transform that keeps shapes and records may wrap around at 255, take another channel or cut a token too much.",
    satisfy="State it once more: mapsto.example(it, reference=lambda batch, mean: {'input': ...}), with the fields that it "
    "makes (and `rng` where it draws).",
    catches=("tensorpack#614", "p5_VehicleDetection_Unet#2", "gluon-cv#227", "statistics of the other channel order"),
)
@searched
def reference(trial: Trial) -> None:
    """The fields of the stated `reference` are what it gives: drawn and hard batches, several sizes, plausible options."""
    truth = stated(trial, trial.example.more.get("reference"), "reference")
    for more, demanded in options(trial, truth):
        with varied(trial, more) as args:
            try:
                transform = transform_of(trial)
            except Exception:
                if demanded:
                    raise
                continue
            make = batches_for(trial, transform)
            for size in SIZES if not more else SIZES[:1]:
                for name, batch in drawn_or_hard(trial, make(size), size):
                    named = {**defaults_of(trial.subject.target, args), "rng": np.random.default_rng(trial.seed)}
                    try:
                        due = called(truth, (_copied(batch),), **named)
                        got = apply(transform, _copied(batch), trial.seed)
                    except Exception:
                        if name == "as drawn" and demanded:
                            raise
                        continue  # outside of the domain of one of them
                    if not isinstance(due, Mapping):
                        trial.undecided("its `reference` gives no dict of fields: lambda batch: {'input': ...}")
                    if missing := due.keys() - fields_of(got).keys():
                        trial.fail(f"it makes no field {', '.join(sorted(missing))}, and its reference does")
                    _fields(trial, fields_of(got), due)
    made = [content(apply(transform_of(trial), batches_for(trial, transform_of(trial))(n), trial.seed)) for n in SIZES]
    trial.control("another batch gives another result", any(m != made[0] for m in made))


def _copied(batch: Any) -> Any:
    return {k: v.copy() if isinstance(v, np.ndarray) else list(v) for k, v in batch.items()}


def _fields(trial: Trial, got: Mapping[str, Any], due: Mapping[str, Any]) -> None:
    for field, wanted in due.items():
        found = got[field]
        if isinstance(found, np.ndarray) and found.dtype != object:
            agrees(trial, {field: found}, {field: wanted}, what="field")
            continue
        trial.demand(len(found) == len(wanted), f"field {field!r} has {len(found)} records, and {len(wanted)} by the reference")
        for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
            agrees(trial, {"value": _array(a)}, {"value": _array(b)}, what=f"record {i} of field {field!r}:")


def _array(value: Any) -> Any:
    """An array of what a record holds: numbers, texts, or lists of them."""
    return value if isinstance(value, np.ndarray) else np.asarray(value)


@laws.law(
    "D18",
    "relations",
    priority=0,
    tolerance="T5",
    why="A normalisation that is applied twice, a flip that does not undo itself, a tokeniser that loses text: nobody sees.",
    satisfy="Break none of the relations that it states, of fields by name: mapsto.example(it, relations=(idempotent(),)).",
    catches=("a lower-casing that is not idempotent", "a decoder that loses spaces", "a mixing that loses mass"),
)
@searched
def relations(trial: Trial) -> None:
    """The stated `relations` (mapsto.laws.relations; inputs are fields by name) hold on drawn and on hard batches."""
    found = stated(trial, trial.example.more.get("relations"), "relations")
    transform = transform_of(trial)
    make = batches_for(trial, transform)
    for relation in found:
        holds(
            trial,
            relation,
            lambda batch: dict(fields_of(apply(transform, _copied(batch), trial.seed))),
            make(SIZES[0]),
            SIZES[0],
        )


@source_laws.law(
    "D19",
    "reference",
    priority=0,
    tolerance="T5",
    why="A source that drops the last line, takes the header for a record or shifts a column reads what nobody wrote.",
    satisfy="State what it holds: mapsto.example(it, in_folder=..., reference=lambda path: [{'input': ...}, ...]), records in "
    "order (or a dict of columns), read in another way.",
    catches=("binpacking#18", "aurora-dsql-samples#1159", "eml#184", "tablib#334"),
)
def source_reference(trial: Trial) -> None:
    """Its records, and how many there are, are those of the stated `reference`, which is given the same arguments."""
    truth = stated(trial, trial.example.more.get("reference"), "reference")
    with source_of(trial) as source:
        due = _records(trial, _stated_of(truth, trial.example.more["arguments"]))
        trial.demand(len(source) == len(due), f"it holds {len(source)} records, and {len(due)} by the reference",
                     measured=len(source), allowed=len(due))  # fmt: skip
        for i, wanted in enumerate(due):
            with trial.case(record=i):
                got = fields_of(source[np.array([i], np.int64)])
                if missing := wanted.keys() - got.keys():
                    trial.fail(f"it has no field {', '.join(sorted(missing))}, and its reference does")
                _fields(trial, got, {f: [v] for f, v in wanted.items()})
    trial.control("records differ", len({str(w) for w in due}) > 1 or len(due) == 1)


def _stated_of(truth: Any, arguments: Mapping[str, Any]) -> Any:
    """The reference of the arguments of the source by name, of those that it takes."""
    return called(truth, (), **arguments) if inspect.signature(truth).parameters else truth()


def _records(trial: Trial, due: Any) -> list[Mapping[str, Any]]:
    if isinstance(due, Mapping):
        sizes = {len(v) for v in due.values()}
        if len(sizes) == 1:
            return [{f: v[i] for f, v in due.items()} for i in range(sizes.pop())]
    elif isinstance(due, Sequence) and all(isinstance(r, Mapping) for r in due):
        return list(due)
    return trial.undecided(
        "its `reference` gives neither a list of records ({field: value}) nor a dict of columns of one length"
    )
