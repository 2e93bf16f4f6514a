"""Laws of transforms, batch -> batch: the input stays, the records stay, randomness comes from `rng` alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ...core.laws import Laws, Trial
from . import streams
from .contents import content, fields_of, records_of
from .examples import apply, batches_for, takes_rng, transform_of
from .together import fields_move_together

laws = Laws("transform")
SIZES = (1, 2, 5)


@laws.law(
    "D14",
    "purity",
    priority=0,
    why="A transform that writes into its batch writes into the source, or into what another transform still reads.",
    satisfy="Return a new dict, {**batch, field: new}, and never assign into arrays or lists that came in.",
    catches=("normalising in place, twice in the second epoch",),
)
def purity(trial: Trial) -> None:
    """The batch that it is given, its dict, lists and arrays, is as it was afterwards."""
    transform = transform_of(trial)
    make = batches_for(trial, transform)
    for size in SIZES:
        with trial.case(size=size):
            batch = make(size)
            before, names = content(batch), list(fields_of(batch))
            with trial.component("applying it"):
                result = apply(transform, batch, 0)
            trial.demand(
                list(fields_of(batch)) == names,
                f"it changed the fields of its input to {list(fields_of(batch))}",
                cause="it assigns into the dict that it was given",
            )
            wrong = [f for f, d in content(batch).items() if d != before[f]]
            trial.demand(
                not wrong,
                f"it wrote into field {wrong[0] if wrong else ''!r} of its input",
                first={"field": wrong[0] if wrong else ""},
                cause="in-place arithmetic",
            )
            trial.demand(isinstance(result, dict), f"it returned a {type(result).__name__}, and a batch is a dict of fields")


@laws.law(
    "D15",
    "records",
    priority=0,
    why="A field that loses or gains records is paired with the wrong ones of the others; an empty micro-shard must pass too.",
    satisfy="Keep the first axis of every field, and take a batch of no records; or declare tags={'changes_records'}.",
    catches=("max() of an empty batch in the last micro-shard", "a filter inside a transform that shifts targets"),
)
def records(trial: Trial) -> None:
    """Every field of the result holds as many records as the batch has, none included."""
    transform = transform_of(trial)
    make = batches_for(trial, transform)
    if trial.has("changes_records"):
        trial.skip("it declares that it changes the number of records")
    for size in (*SIZES, 0):
        with trial.case(size=size):
            with trial.component(f"applying it to {size} records"):
                found = fields_of(apply(transform, make(size), 0))
            trial.demand(bool(found), "it left no field")
            for field, values in found.items():
                trial.demand(
                    len(values) == size,
                    f"field {field!r} has {len(values)} records",
                    measured=len(values),
                    allowed=size,
                    first={"field": field},
                )
    sizes = {len(next(iter(make(n).values()))) for n in SIZES}
    trial.control("the batches differ in size", len(sizes) > 1)


@laws.law(
    "D16",
    "randomness",
    priority=0,
    why="A generator of its own repeats in every worker process, and is lost when a run goes on from a checkpoint.",
    satisfy="Take `rng` as a keyword and draw from it alone; draw anew for each record, and once for an image and its mask.",
    catches=("pytorch#5059", "numpy.random in a transform: the same augmentation in each worker", "albumentations#1056"),
)
def randomness(trial: Trial) -> None:
    """The result is a function of (batch, rng): no global stream is read or moved, none is kept between calls, and fields of
    one height and width are moved by one draw.
    """
    transform = transform_of(trial)
    make, random = batches_for(trial, transform), takes_rng(transform)
    with streams.kept():
        for size in SIZES:
            with trial.case(size=size):
                results: list[Any] = []
                for time in range(3):
                    streams.seed(time + 1)
                    before = streams.states()
                    results.append(content(apply(transform, make(size), trial.seed)))
                    moved = [n for n, s in streams.states().items() if s != before[n]]
                    trial.demand(
                        not moved, f"it draws from {', '.join(moved)} global random stream", cause="a global generator"
                    )
                trial.demand(
                    all(r == results[0] for r in results),
                    "the same batch and the same rng give another result the next time",
                    cause="a generator of its own, or one that is kept between calls",
                )
                fresh = content(apply(transform_of(trial), make(size), trial.seed))
                trial.demand(
                    fresh == results[0],
                    "a fresh instance gives another result for the same batch and rng",
                    cause="a generator of its own that is not seeded",
                )
        batch = make(5)
        if random:
            drawn = [content(apply(transform, copy.deepcopy(batch), n)) for n in range(8)]
            trial.control("other generators give other results", any(d != drawn[0] for d in drawn))
            _each_record(trial, transform, batch)
            fields_move_together(trial, lambda given, seed: apply(transform, given, seed), batch)
        else:
            trial.control(
                "another batch gives another result",
                content(apply(transform, make(2), 0)) != content(apply(transform, batch, 0)),
            )


def _each_record(trial: Trial, transform: Any, batch: dict[str, Any]) -> None:
    """Equal records of a batch must not all be given the same draw, unless that is declared."""
    if trial.has("one_draw_a_batch"):
        return
    one = {
        f: ([v[0]] * 8 if isinstance(v, list) else np.repeat(np.asarray(v)[:1], 8, axis=0)) for f, v in fields_of(batch).items()
    }
    seen: set[str] = set()
    for n in range(4):
        found = fields_of(apply(transform, dict(one), n))
        seen = {str([content({f: values[i : i + 1]}) for f, values in found.items()]) for i in range(8)}
        if len(seen) > 1:
            break
    with trial.case(size=8, records="equal"):
        trial.demand(
            len(seen) > 1,
            "8 equal records of a batch are all given the same draw",
            measured=1,
            allowed="more than 1",
            cause="one draw a batch, where one a record is due (declare tags={'one_draw_a_batch'} where it is meant)",
        )


@laws.law(
    "D16b",
    "record_independence",
    priority=0,
    tolerance="T5",
    why="A record that is scaled, numbered or ranked by its batch is another one in another batch, in the next epoch and when "
    "it is predicted alone.",
    satisfy="Take statistics from the data set once (a fitted transform), or from the record itself; or declare "
    "tags={'across_records'}.",
    catches=("normalising by the batch", "label numbers by first appearance in the batch", "ranks among neighbours"),
)
def record_independence(trial: Trial) -> None:
    """Without random numbers, what becomes of a record is the same alone, among others and in another order, where records
    keep their shape.
    """
    transform = transform_of(trial)
    make = batches_for(trial, transform)
    if takes_rng(transform):
        trial.skip("it draws random numbers, which depend on the place in the batch")
    if trial.has("changes_records") or trial.has("across_records"):
        trial.skip("a record's result depends on the others, as it declares")
    batch = make(5)
    whole = fields_of(apply(transform, records_of(batch, range(5)), 0))
    for records in ([3, 0, 4, 1, 2], [4, 1], *([i] for i in range(5))):
        with trial.case(size=len(records), records=records), trial.component("applying it to some of the records"):
            found = fields_of(apply(transform, records_of(batch, records), 0))
            for field, values in found.items():
                for place, record in enumerate(records):
                    got, want = values[place], whole[field][record]
                    if np.shape(got) != np.shape(want):
                        continue  # such as padding, which reaches to the longest
                    trial.demand(
                        _alike(field, got, want),
                        f"record {record} of field {field!r} is another one {'alone' if len(records) == 1 else 'among others'}",
                        first={"field": field, "record": record},
                        cause="it depends on the other records (declare tags={'across_records'} where it is meant)",
                    )
    trial.control("records differ", len({str(content({f: [v[i]] for f, v in whole.items()})) for i in range(5)}) > 1)


def _alike(field: str, got: Any, want: Any) -> bool:
    """Equal, or of floating numbers within the rounding of another order of sums."""
    kinds = getattr(getattr(got, "dtype", None), "kind", ""), getattr(getattr(want, "dtype", None), "kind", "")
    if kinds == ("f", "f"):
        return bool(np.allclose(got, want, rtol=1e-5, atol=1e-6 * float(np.abs(want).max(initial=0.0)), equal_nan=True))
    return content({field: [got]}) == content({field: [want]})
