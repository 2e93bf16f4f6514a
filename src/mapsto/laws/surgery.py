"""Laws of surgery, model -> model: something happened, what was to stay stayed, the state loads, nothing is nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.laws import Laws, Trial
from ..core.parts import build
from ..core.random import derive
from ..core.values import use
from .compare import differs, is_array, same, values
from .drivers import SurgeryDriver

laws = Laws("surgery", driver=SurgeryDriver)


def operate(trial: Trial, model: Any, args: Mapping[str, Any] | None = None) -> Any:
    """The surgery done to a model."""
    subject, driver = trial.subject, trial.driver
    if subject.make is not None:
        surgery = subject.make()
    else:
        stated = dict(trial.example.args if args is None else args)
        surgery = build(use(subject.target, **stated), "surgery", path=subject.label)
    with trial.component("the surgery"):
        result = driver.operate(surgery, model, derive(trial.seed, "surgery"))
    if not driver.is_model(result):
        trial.fail(f"it returned a {type(result).__name__}, and a surgery returns the model", cause="a missing return")
    return result


def _another(trial: Trial) -> Trial:
    return Trial(trial.subject, trial.law, seed=trial.seed + 1)


@laws.law(
    "Q1",
    "something_happened",
    priority=0,
    why="A surgery that matches no module is a silent no-op: the model is as large and as slow as before, and nobody is told.",
    satisfy="Raise where nothing matches, and return the model that was changed.",
    catches=("executorch#22069",),
)
def something_happened(trial: Trial) -> None:
    """At least one module, parameter, hook or value of the model is another one afterwards; how many is counted."""
    driver: SurgeryDriver = trial.driver
    model = driver.model(trial)
    shape, before = driver.anatomy(model), driver.state(model)
    result = operate(trial, driver.copy(model))
    made, after = driver.anatomy(result), driver.state(result)
    changed = [n for n in {**shape, **made} if shape.get(n) != made.get(n)]
    moved = [n for n, v in after.items() if n not in before or differs({"": v}, {"": before[n]})]
    trial.demand(
        bool(changed or moved),
        f"nothing of {len(shape)} modules and parameters changed "
        "(state a model that it changes: mapsto.example(..., model=factory, inputs=...))",
        measured="0 changed",
        allowed="at least 1",
        cause="no module matched",
    )
    trial.exercised("changed", len(set(changed) | set(moved)))


@laws.law(
    "Q1b",
    "original",
    priority=0,
    why="A surgery that returns another model and changes the first one too leaves no baseline to compare with.",
    satisfy="Change the model in place and return it, or copy it first (copy.deepcopy) and leave it alone.",
    catches=("a shallow copy whose modules are shared",),
)
def original(trial: Trial) -> None:
    """The model that it is given is untouched, unless it is itself what is returned (or `in_place` is declared)."""
    driver: SurgeryDriver = trial.driver
    model, given = driver.model(trial), driver.inputs(trial)
    shape, before, output = driver.anatomy(model), driver.state(model), driver.call(model, given)
    result = operate(trial, model)
    if result is model or trial.has("in_place"):
        trial.skip("it changes the model in place")
    shared = "the copy shares weights with the original"
    same(trial, "the original's modules", driver.anatomy(model), shape, cause="the copy shares modules with the original")
    same(trial, "the original's state", driver.state(model), before, cause=shared)
    same(trial, "the original's output", driver.call(model, given), output)
    driver.train(result)
    same(trial, "the original after the result was trained", driver.state(model), before, cause=shared)
    trial.control("another model differs", differs(driver.state(driver.model(_another(trial))), before))


@laws.law(
    "Q1c",
    "kept_weights",
    priority=0,
    why="Weights that were trained and are not the surgery's business must come through it, under names that checkpoints know.",
    satisfy="Move modules, do not make them anew; declare changes_weights where values change on purpose.",
    catches=("a layer that is made again with fresh weights", "scales lost in a conversion"),
)
def kept_weights(trial: Trial) -> None:
    """What has the same name and shape before and after has the same values (unless `changes_weights`), in the same dtype."""
    if trial.has("changes_weights"):
        trial.skip("it changes weights, as it declares")
    driver: SurgeryDriver = trial.driver
    model = driver.model(trial)
    before = driver.state(model)
    after = driver.state(operate(trial, model))
    kept = {n: v for n, v in before.items() if n in after and is_array(v) and values(after[n]).shape == values(v).shape}
    if not kept:
        trial.skip("no name of the state is kept")
    same(trial, "weights that keep their names", {n: after[n] for n in kept}, kept, cause="a module was made anew")
    trial.exercised("names lost", len(before.keys() - after.keys()))
    other = driver.state(driver.model(_another(trial)))
    trial.control("another model's weights differ", differs({n: other[n] for n in kept}, kept))


@laws.law(
    "Q4",
    "loadable",
    priority=1,
    why="A model that was operated on must be saved and loaded as any other: into a fresh one that the same was done to.",
    satisfy="Keep all that the forward pass needs in parameters and buffers, and let the surgery depend on nothing else.",
    catches=("scales kept as plain attributes", "masks that are not in the state"),
)
def loadable(trial: Trial) -> None:
    """Its state loads into a fresh model with the same surgery, which then gives the same output."""
    driver: SurgeryDriver = trial.driver
    given, another = driver.inputs(trial), _another(trial)
    made, fresh = operate(trial, driver.model(trial)), operate(another, driver.model(another))
    with trial.component("a forward pass after the surgery"):
        wanted, cold = driver.call(made, given), driver.call(fresh, given)
        with trial.component("loading its state"):
            driver.load(fresh, driver.save(made))
        got = driver.call(fresh, given)
    cause = "something that the forward pass needs is not in the state"
    same(trial, "the output after loading", got, wanted, cause=cause)
    trial.control("before loading it differs", differs(cold, wanted))


@laws.law(
    "Q5",
    "neutral",
    priority=1,
    tolerance="T1",
    why="With a sparsity of 0, or as many bits as there were, the plumbing is all that is left: it must be the identity.",
    satisfy="State the arguments with which it is the identity: mapsto.example(it, neutral={...}).",
    catches=("a wrong axis that only shows without rounding",),
)
def neutral(trial: Trial) -> None:
    """With its neutral setting the outputs are those of the model as it was, in float64."""
    if "neutral" not in trial.example.more:
        trial.not_stated(
            "state arguments with which outputs stay: mapsto.example(..., neutral={...}), or neutral=None if there are none"
        )
    setting = trial.example.more["neutral"]
    if setting is None:
        trial.skip("its author says that it has no neutral setting")
    driver: SurgeryDriver = trial.driver
    given, model = driver.inputs(trial, "float64"), driver.model(trial, "float64")
    widened = getattr(trial.subject.driver, "widened", None) or (lambda result: result)  # what it adds may be in float32
    wanted = driver.call(model, given)
    with trial.case(neutral=str(setting)):
        result = widened(operate(trial, driver.copy(model), setting))
        with trial.component("a forward pass after the surgery"):
            got = driver.call(result, given)
        same(trial, "the output", got, wanted, tolerance="T1")
    full = widened(operate(trial, driver.copy(model)))
    changed = differs(driver.call(full, given), wanted) or driver.anatomy(full) != driver.anatomy(model)
    trial.control("with its own setting something differs", changed)
