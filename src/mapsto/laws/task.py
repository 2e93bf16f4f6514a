"""Laws of tasks, (model, batch) -> (total, weight, outputs): parts add up, padding counts nothing, records are alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.calls import called
from ..core.laws import Laws, Trial
from ..core.random import derive
from ..data.laws.contents import records_of
from .compare import ATOL, RTOL, Array, differs, same
from .drivers.task import TaskDriver, TaskValue
from .truth import agrees, stated

laws = Laws("task", driver=TaskDriver)

CUTS: tuple[tuple[int, ...], ...] = ((1, 2), (5, 3), (1, 3, 7))
"""Records of parts: uneven, since parts of one size hide what a mean divides by."""
MANY, MODELS = 24, 6
"""Records and models among which a measure must change."""
PADDED = 3
"""Places by which a padded batch is longer."""


def cut(batch: Mapping[str, Any], sizes: Sequence[int]) -> list[dict[str, Any]]:
    ends = np.cumsum(sizes)
    return [records_of(batch, range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


def widened(batch: Mapping[str, Any], pads: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with places added at the end of axis 1 of the fields that are padded, filled with their values."""
    made = dict(batch)
    for field, value in pads.items():
        width = [(0, 0), (0, PADDED), *[(0, 0)] * (batch[field].ndim - 2)]
        made[field] = np.pad(batch[field], width, constant_values=value)
    return made


# -- sums ----------------------------------------------------------------------------------------------------------------
@laws.law(
    "A1",
    "additivity",
    priority=0,
    tolerance="T1",
    why="Micro-batches, ranks and last batches are parts of unequal size; a task whose total is no sum over records trains on "
    "other gradients when a batch is cut.",
    satisfy="Return the sum of the records' losses and what a mean divides by (records or tokens that count), and no mean.",
    catches=("trl#2175", "transformers#34191", "a second loss added as a mean", "a weight that counts padding"),
)
def additivity(trial: Trial) -> None:
    """Totals, weights and gradients of uneven parts of a batch add up to those of the whole."""
    driver: TaskDriver = trial.driver
    driver.settle(trial)
    if trial.has("across_records"):
        trial.skip("records of a batch depend on one another, as it declares")
    for sizes in CUTS:
        batch = driver.batch(trial, sum(sizes))
        with trial.case(parts=sizes, dtype="float64"), trial.component("the task of a part"):
            whole = driver.look(trial, driver.build(trial), batch)
            parts = [driver.look(trial, driver.build(trial), part) for part in cut(batch, sizes)]
            _adds_up(trial, whole, parts)
    trial.control("parts of the whole differ from it", differs(parts[0].total, whole.total))


def _adds_up(trial: Trial, whole: TaskValue, parts: Sequence[TaskValue]) -> None:
    weight, total = sum(p.weight for p in parts), np.asarray(sum(float(p.total) for p in parts))
    trial.demand(
        abs(weight - whole.weight) <= 1e-9 * max(1.0, abs(whole.weight)),
        f"the weights of the parts are {[p.weight for p in parts]}, and that of the whole is {whole.weight:g}",
        measured=weight,
        allowed=whole.weight,
        cause="it counts something else than records or tokens that count" if weight else "its weight is zero",
    )
    trial.demand(whole.weight > 0, f"the weight of {len(parts)} parts together is {whole.weight:g}")
    ratio = float(total / whole.total) if float(whole.total) else float("nan")
    cause = f"the sum over parts is {ratio:.6g} of the whole: a mean was taken somewhere"
    same(trial, "the total of the parts", {"total": total}, {"total": whole.total}, tolerance="T1", cause=cause)
    if not any(g is not None and bool(np.any(g)) for g in whole.gradients.values()):
        trial.undecided("its total has no gradient with respect to any parameter of the model")
    mine, theirs = ({k: _zero(g, k, whole.gradients) for k, g in v.items()} for v in (_summed(parts), whole.gradients))
    same(trial, "the gradients of the parts", mine, theirs, tolerance="T1", cause=cause)


def _summed(parts: Sequence[TaskValue]) -> dict[str, Array | None]:
    made: dict[str, Array | None] = {}
    for path in parts[0].gradients:
        found = [g for p in parts if (g := p.gradients[path]) is not None]
        made[path] = np.sum(found, axis=0) if found else None
    return made


def _zero(gradient: Array | None, path: str, like: Mapping[str, Array | None]) -> Array:
    known = like[path]
    return gradient if gradient is not None else np.zeros(() if known is None else known.shape)


@laws.law(
    "A2",
    "measures",
    priority=0,
    tolerance="T1",
    why="A measure that is a mean of a batch, that counts ignored targets or that nothing can change chooses the wrong model.",
    satisfy="Give each measure as (sum, weight) over the records that count, from the outputs that the model gave.",
    catches=("one logit whose argmax is always 0", "ignored targets counted as errors"),
)
def measures(trial: Trial) -> None:
    """Sums and weights of what it measures add up over uneven parts; another model changes each measure, and not its weight;
    those of a stated `reference` are its own.
    """
    driver: TaskDriver = trial.driver
    driver.settle(trial)
    first = driver.look(trial, driver.build(trial), driver.batch(trial, 3), gradients=False).measures
    if not first:
        trial.skip("it measures nothing")
    for sizes in CUTS:
        batch = driver.batch(trial, sum(sizes))
        with trial.case(parts=sizes, dtype="float64"), trial.component("measuring a part"):
            whole = driver.look(trial, driver.build(trial), batch, gradients=False).measures or {}
            parts = [
                driver.look(trial, driver.build(trial), part, gradients=False).measures or {} for part in cut(batch, sizes)
            ]
            for name, pair in whole.items():
                _measure_adds_up(trial, name, pair, [p[name] for p in parts])
    _answers(trial, driver)
    if "reference" in trial.example.more:
        _against_reference(trial, driver)


def _measure_adds_up(trial: Trial, name: str, whole: tuple[Array, float], parts: Sequence[tuple[Array, float]]) -> None:
    for what, at in (("sum", 0), ("weight", 1)):
        got, due = float(np.sum([np.sum(p[at]) for p in parts])), float(np.sum(whole[at]))
        trial.demand(
            abs(got - due) <= ATOL + 100 * RTOL * abs(due),
            f"the {what} of {name!r} is {got:.9g} over parts, and {due:.9g} over the whole",
            measured=got,
            allowed=due,
            first={"measure": name},
            cause="a mean of the batch where a sum is due" if what == "sum" else "the weight is no count of records",
        )


def _answers(trial: Trial, driver: TaskDriver) -> None:
    """A measure that no model changes says nothing."""
    batch = driver.batch(trial, MANY)
    models = [driver.build(trial, stream=f"model {i}") for i in range(MODELS)]
    values = [driver.look(trial, model, batch, gradients=False) for model in models]
    if not differs(values[0].outputs, values[1].outputs):
        trial.undecided("the models that are tried all give the same outputs: its example's `model` draws no parameters")
    for name in values[0].measures or {}:
        pairs = [(v.measures or {})[name] for v in values]
        found = [(float(np.sum(total)), weight) for total, weight in pairs]
        value = found[0][0] / found[0][1] if found[0][1] else float("nan")
        with trial.case(size=MANY, models=MODELS):
            trial.demand(
                len({v for v, _ in found}) > 1 or trial.has("constant_measures"),
                f"{name!r} is {value:.6g} whatever the model says",
                measured=value,
                first={"measure": name},
                cause="it does not look at the outputs, or at an axis of one of them",
            )
            trial.demand(
                len({w for _, w in found}) == 1 or trial.has("weighed_by_outputs"),
                f"the weight of {name!r} depends on what the model says: {sorted({w for _, w in found})[:4]}",
                first={"measure": name},
                cause="a weight that counts predictions, not records (declare tags={'weighed_by_outputs'} where it is meant)",
            )


def _against_reference(trial: Trial, driver: TaskDriver) -> None:
    truth = stated(trial, trial.example.more.get("reference"), "reference")
    for size in (1, 4, 17):
        batch = driver.batch(trial, size)
        with trial.case(size=size):
            value = driver.look(trial, driver.build(trial), batch, gradients=False)
            outputs = next(iter(value.outputs.values())) if len(value.outputs) == 1 else value.outputs
            due = called(truth, (outputs, batch))
            found = {n: np.sum(t) / w for n, (t, w) in (value.measures or {}).items() if w}
            if value.weight:
                found["loss"] = value.total / value.weight
            if missing := sorted(due.keys() - found.keys()):
                trial.fail(f"its reference tells {', '.join(missing)}, and it measures {', '.join(sorted(found))}")
            agrees(trial, {n: found[n] for n in due}, {n: np.float64(v) for n, v in due.items()}, what="its")


# -- padding and neighbours ------------------------------------------------------------------------------------------------
@laws.law(
    "A3",
    "padding",
    priority=0,
    tolerance="T1",
    why="How far a batch is padded depends on its longest record; what changes with it depends on the neighbours.",
    satisfy="Mask every reduction over time, give padded targets the value that the loss ignores, and count none of them.",
    catches=("trl#2175", "attention without its mask", "accuracy over padding"),
)
def padding(trial: Trial) -> None:
    """Declared `pads` (field -> value): a batch that is padded further has the same total, weight, gradients and measures."""
    driver: TaskDriver = trial.driver
    driver.settle(trial)
    pads = stated(trial, trial.example.more.get("pads"), "pads")
    batch = driver.batch(trial, 4)
    for field in pads:
        if field not in batch or not isinstance(batch[field], np.ndarray) or batch[field].ndim < 2:
            trial.undecided(f"`pads` names {field!r}, which is no array [records, time, ...] of the batch; {', '.join(batch)}")
    with trial.case(size=4, padded=PADDED, dtype="float64"), trial.component("the task of a padded batch"):
        want = driver.look(trial, driver.build(trial), batch)
        got = driver.look(trial, driver.build(trial), widened(batch, pads))
        same(trial, "padded further", _numbers(got), _numbers(want), tolerance="T1", cause="padding counts")
    content = {**batch, **{f: np.where(np.indices(batch[f].shape)[1] == 0, batch[f], v) for f, v in pads.items()}}
    other = driver.look(trial, driver.build(trial), content)
    trial.control("padding in the place of content differs", differs(_numbers(other), _numbers(want)))


def _numbers(value: TaskValue) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    for name, (total, weight) in (value.measures or {}).items():
        measured |= {f"sum of {name}": np.asarray(np.sum(total)), f"weight of {name}": np.float64(weight)}
    gradients = {f"gradient of {k}": g for k, g in value.gradients.items() if g is not None}
    return {"total": value.total, "weight": np.float64(value.weight), **measured, **gradients}


@laws.law(
    "A4",
    "record_independence",
    priority=0,
    tolerance="T1",
    why="A prediction that depends on its neighbours in the batch is another one when it is served alone.",
    satisfy="Decode each record by itself; take no statistics, thresholds or ranks over the batch (or declare across_records).",
    catches=("a threshold at the batch's median", "a softmax over the batch axis", "predictions sorted by score"),
)
def record_independence(trial: Trial) -> None:
    """In evaluation, what is predicted of a record, and its outputs, are the same alone, among others, and in another order."""
    driver: TaskDriver = trial.driver
    driver.settle(trial)
    if trial.has("across_records"):
        trial.skip("records of a batch depend on one another, as it declares")
    size, order = 5, [3, 0, 4, 1, 2]
    batch = driver.batch(trial, size)
    whole = _per_record(driver.look(trial, driver.build(trial), batch, gradients=False), size)
    if not whole:
        trial.undecided("neither its outputs nor its predictions have an entry for each record")
    alone = [([i], "alone") for i in range(size)]
    for records, said in ((order, "in another order"), ([4, 1], "among others"), *alone):
        with trial.case(size=len(records), records=records, dtype="float64"), trial.component(f"predicting {said}"):
            value = driver.look(trial, driver.build(trial), records_of(batch, records), gradients=False)
            got = _per_record(value, len(records))
            want = {k: v[records] for k, v in whole.items()}
            same(trial, f"predictions {said}", got, want, tolerance="T1", cause="it depends on the batch")
    trial.control(
        "records differ in what is predicted", any(differs(v[:1], v[i : i + 1]) for v in whole.values() for i in (1, 2, 3))
    )


def _per_record(value: TaskValue, size: int) -> dict[str, Any]:
    found = {f"output {k}": v for k, v in value.outputs.items()} | {
        f"predicted {k}": v for k, v in (value.predictions or {}).items()
    }
    return {k: v for k, v in found.items() if np.ndim(v) and len(v) == size}


# -- modes ---------------------------------------------------------------------------------------------------------------
@laws.law(
    "A5",
    "modes",
    priority=0,
    tolerance="T1",
    why="A task that asks whether the model trains may validate another loss than it trains, and resumes into either.",
    satisfy="Let layers differ by mode and not the task; declare tags={'mode_dependent'} where training needs another path.",
    catches=("a loss with class weights in training alone", "decoding in evaluation that feeds another loss"),
)
def modes(trial: Trial) -> None:
    """With a model without dropout and batch statistics, total, weight and outputs are the same in training and evaluation;
    declared `mode_dependent` they differ.
    """
    driver: TaskDriver = trial.driver
    driver.settle(trial)
    batch = driver.batch(trial, 4)
    training, evaluation = driver.build(trial, training=True), driver.build(trial)
    if driver.differs_by_mode(evaluation):
        trial.skip("its model has layers whose training and evaluation differ")
    a, b = (driver.look(trial, built, batch, seed=derive(trial.seed, "modes")) for built in (training, evaluation))
    if trial.has("mode_dependent"):
        trial.demand(
            differs(_numbers(a), _numbers(b)), "it declares `mode_dependent`, and training and evaluation are the same"
        )
        return
    with trial.case(size=4, mode="training"):
        cause = "the task asks for the mode (declare tags={'mode_dependent'} where it is meant)"
        same(trial, "training against evaluation", _loss(a), _loss(b), tolerance="T1", cause=cause)
    other = driver.look(trial, driver.build(trial), driver.batch(trial, 4, stream="others"))
    trial.control("another batch differs", differs(_loss(other), _loss(b)))


def _loss(value: TaskValue) -> dict[str, Any]:
    return {"total": value.total, "weight": np.float64(value.weight), **{f"output {k}": v for k, v in value.outputs.items()}}


@laws.law(
    "A6",
    "nothing",
    priority=0,
    tolerance="T0",
    why="Targets that are all ignored and an empty micro-shard make 0 / 0: one NaN gradient ends the run.",
    satisfy="Return sums and counts, both zero of nothing; divide by max(count, 1) where a division is needed.",
    catches=("pytorch#70348", "Automodel#3796", "an accuracy of an empty batch"),
)
def nothing(trial: Trial) -> None:
    """One record, and targets that are all ignored (declared `ignored`: field -> value), give finite numbers; weight 0 where
    nothing counts.
    """
    driver: TaskDriver = trial.driver
    driver.settle(trial)
    cases = {"one record": driver.batch(trial, 1)}
    if ignored := trial.example.more.get("ignored"):
        batch = driver.batch(trial, 3)
        cases["all targets ignored"] = {**batch, **{f: np.full_like(batch[f], v) for f, v in ignored.items()}}
    for said, batch in cases.items():
        with trial.case(targets=said), trial.component(f"the task of {said}"):
            value = driver.look(trial, driver.build(trial), batch)
            for name, number in _numbers(value).items():
                bad = not bool(np.isfinite(number).all())
                trial.demand(
                    not bad, f"{said}: its {name} is not finite", first={"tensor": name}, cause="0 / 0: a mean of nothing"
                )
            if said != "one record":
                trial.demand(value.weight == 0, f"{said}: its weight is {value.weight:g}", measured=value.weight, allowed=0.0)
                trial.demand(float(value.total) == 0, f"{said}: its total is {float(value.total):g}", allowed=0.0)
                for name, (total, weight) in (value.measures or {}).items():
                    counted = bool(np.any(total)) or weight != 0
                    trial.demand(
                        not counted, f"{said}: {name!r} is {float(np.sum(total)):g} of {weight:g}", first={"measure": name}
                    )
