"""Laws of sources, indices -> records: gathering, isolation, the range, travelling to workers."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from ...core.laws import Laws, Trial
from ...core.random import derive
from . import streams
from .contents import content, fields_of, keys_of, size_of
from .examples import source_of

laws = Laws("source")


def _picks(trial: Trial, count: int) -> dict[str, Any]:
    """Index arrays of a kind each, smallest first."""
    rng = np.random.default_rng(derive(trial.seed, "picks"))
    few = rng.permutation(count)[:40]
    return {
        "one record": few[:1],
        "the last record": np.array([count - 1]),
        "a duplicate": np.repeat(few[:1], 2),
        "ascending": np.sort(few),
        "descending": np.sort(few)[::-1].copy(),
        "shuffled": few,
        "shuffled with duplicates": rng.integers(0, count, 25),
    }


@laws.law(
    "D10",
    "gather",
    priority=0,
    why="A reader asks for any records in any order; a source that sorts, merges duplicates or shifts rows pairs inputs with "
    "the targets of others.",
    satisfy="Return for indices[i] the record indices[i] at place i of every field, for any int64 array, duplicates included.",
    catches=("a source that sorts indices for faster reads and does not sort back", "h5py-like readers that drop duplicates"),
)
def gather(trial: Trial) -> None:
    """source[indices] holds, at place i of every field, the record that source[[indices[i]]] holds; indices stay as
    they are.
    """
    with source_of(trial) as source:
        count = len(source)
        with trial.component("reading one record"):
            single = {
                int(i): source[np.array([i], np.int64)] for i in np.unique(np.concatenate([*_picks(trial, count).values()]))
            }
        for name, picked in _picks(trial, count).items():
            with trial.case(indices=name, size=len(picked)):
                given = picked.astype(np.int64)
                before = given.copy()
                with trial.component(f"reading {name}"):
                    batch = source[given]
                trial.demand(np.array_equal(given, before), "it changed the index array that it was given")
                _rows(trial, batch, single, before)
    trial.control("records differ", len({str(content(b)) for b in single.values()}) > 1 or count == 1)


def _rows(trial: Trial, batch: Any, single: dict[int, Any], indices: Any) -> None:
    found, first = fields_of(batch), fields_of(single[int(indices[0])])
    trial.demand(found.keys() == first.keys(), f"its fields are {sorted(found)}, and {sorted(first)} for one record")
    for field, values in found.items():
        trial.demand(
            len(values) == len(indices),
            f"field {field!r} has {len(values)} records for {len(indices)} indices",
            measured=len(values),
            allowed=len(indices),
            first={"field": field},
            cause="duplicates are merged" if len(values) == len(set(indices.tolist())) else None,
        )
        got = keys_of({field: values}, None if field != "id" else "id")
        want = [keys_of({field: fields_of(single[int(i)])[field]})[0] for i in indices]
        if got != want:
            at = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
            cause = "the records come in another order" if sorted(map(str, got)) == sorted(map(str, want)) else None
            trial.fail(
                f"place {at} of field {field!r} does not hold record {int(indices[at])}",
                cause=cause,
                first={"field": field, "place": at, "record": int(indices[at])},
            )
        trial.exercised("records", len(want))


@laws.law(
    "D10b",
    "empty",
    priority=1,
    why="A micro-shard of a small last batch may hold no record; code that splits batches then meets missing fields.",
    satisfy="For an empty index array return the fields of any batch with no record in them.",
    catches=("np.stack of an empty list in the last batch of a small shard",),
)
def empty(trial: Trial) -> None:
    """An empty index array gives a batch of the same fields that holds no record."""
    with source_of(trial) as source:
        some = fields_of(source[np.zeros(1, np.int64)])
        with trial.case(size=0), trial.component("reading no record"):
            none = fields_of(source[np.zeros(0, np.int64)])
        trial.demand(none.keys() == some.keys(), f"its fields are {sorted(none)}, and {sorted(some)} for one record")
        for field, values in none.items():
            trial.demand(len(values) == 0, f"field {field!r} holds {len(values)} records", first={"field": field})
            shapes = getattr(values, "shape", (0,))[1:], getattr(some[field], "shape", (1,))[1:]
            kinds = getattr(values, "dtype", None), getattr(some[field], "dtype", None)
            trial.demand(
                kinds[0] == kinds[1] and shapes[0] == shapes[1],
                f"field {field!r} is {kinds[0]} {list(shapes[0])} without records and {kinds[1]} {list(shapes[1])} with",
                first={"field": field},
            )
    trial.control("one record is not none", size_of(some) == 1)


@laws.law(
    "D11",
    "isolation",
    priority=0,
    why="Whoever gets a batch may write into it; if that writes into the data set, later epochs train on something else.",
    satisfy="Return copies (indexing by an array copies), and draw nothing from global random streams.",
    catches=("augmentation in place on views of a memory-mapped array", "a cache that hands out its own arrays"),
)
def isolation(trial: Trial) -> None:
    """Reading is pure: writing into a batch, or reading other records between, changes no later batch; no global
    stream moves.
    """
    with source_of(trial) as source, streams.kept():
        count = len(source)
        indices = np.arange(min(count, 5), dtype=np.int64)
        streams.seed(1)
        before = streams.states()
        first = source[indices.copy()]
        was = content(first)
        moved = [n for n, s in streams.states().items() if s != before[n]]
        trial.demand(not moved, f"reading it draws from a global random stream: {', '.join(moved)}", cause="a global generator")
        for number in range(2):
            for field, values in fields_of(first).items():
                _scribble(values)
                with trial.case(field=field, time=number):
                    again = content(source[indices.copy()])
                    trial.demand(
                        again == was,
                        "a record was changed by writing into a batch that was read before",
                        first={"field": next((f for f in was if again.get(f) != was[f]), field)},
                        cause="batches share memory with the source",
                    )
            source[np.arange(count, dtype=np.int64)[::-1][:40].copy()]
            streams.seed(2 + number)
            first = source[indices.copy()]
            trial.demand(
                content(first) == was,
                "the same indices gave another batch after others were read",
                cause="records depend on what was read before, or on a global random stream",
            )
        other = source[indices[::-1].copy()]
    trial.control("other indices give another batch", content(other) != was or count == 1)


def _scribble(values: Any) -> None:
    try:
        if isinstance(values, list):
            for i, value in enumerate(values):
                if isinstance(value, np.ndarray) and value.flags.writeable:
                    value[...] = 0
                values[i] = None
        elif isinstance(values, np.ndarray):
            if values.flags.writeable:
                values[...] = np.zeros((), values.dtype)
        else:
            values.zero_()
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return  # what cannot be written into is safe


@laws.law(
    "D12",
    "range",
    priority=1,
    why="An index that is too large is a bug of an order or a split; a source that wraps it around trains on other records.",
    satisfy="Let NumPy or Python refuse it, or call mapsto.data.check_indices; readers check every order by themselves.",
    catches=("records that are found modulo the length", "a slice that is cut at the end and drops records"),
)
def range_(trial: Trial) -> None:
    """An index of len(source) or more is an error; one below 0 is an error or, as in NumPy, counts from the end."""
    with source_of(trial) as source:
        count = len(source)
        for wrong in (count, count + 7, -1, -count - 1):
            with trial.case(index=wrong, records=count):
                try:
                    batch = source[np.array([0, wrong], np.int64)]
                except (IndexError, ValueError, LookupError, OverflowError):
                    trial.exercised("indices refused")
                    continue
                meant = source[np.array([0, count + wrong], np.int64)] if -count <= wrong < 0 else None
                trial.demand(
                    meant is not None and content(batch) == content(meant),
                    f"index {wrong} of {count} records gave {size_of(batch)} records",
                    allowed="an error" if meant is None else "an error, or the record that it counts to from the end",
                    measured=f"{size_of(batch)} records",
                    cause="it is wrapped around" if size_of(batch) == 2 else "it is left out",
                )
        trial.control("an index within is accepted", size_of(source[np.array([count - 1], np.int64)]) == 1)


@laws.law(
    "D13",
    "travels",
    priority=1,
    why="Worker processes get the source pickled; one that loses its position, or cannot be sent, fails only with workers > 0.",
    satisfy="Define it at the top of a module and reopen handles in __setstate__; or declare tags={'in_process'}.",
    catches=("open file handles and lambdas within data sets under spawn",),
)
def travels(trial: Trial) -> None:
    """Pickled and read back it gives the same batches."""
    if trial.has("in_process"):
        trial.skip("it declares that it stays in its process")
    with source_of(trial) as source:
        indices = np.arange(min(len(source), 9), dtype=np.int64)
        was = content(source[indices])
        with trial.component("pickling it and reading it back"):
            other = pickle.loads(pickle.dumps(source))  # just written
            found = content(other[indices])
        trial.demand(len(other) == len(source), f"it has {len(other)} records afterwards, and {len(source)} before")
        wrong = [f for f in was if found.get(f) != was[f]]
        trial.demand(not wrong, f"fields {', '.join(wrong)} differ afterwards", first={"field": wrong[0] if wrong else ""})
        if hasattr(other, "close"):
            other.close()
        trial.control("other records differ", len(source) == 1 or content(source[indices[::-1].copy()]) != was)
