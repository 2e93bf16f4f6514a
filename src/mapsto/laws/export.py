"""Laws of exports, model -> artefact, and of layers and models as what is exported."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

from ..core.driven import Driven
from ..core.laws import Laws, Trial
from ..core.random import derive
from .compare import differs, same
from .drivers import ExportCase, ExportDriver
from .export_cases import TRACED, agree, called, compare_at_size, compare_on_fresh_inputs, exported, opened

laws = Laws("export", "layer", "model", driver=ExportDriver)


def driver_of(trial: Trial) -> ExportDriver:
    """What drives an export, or the framework's own export where the subject is a layer."""
    driver: Any = trial.driver
    if trial.subject.kind != "export":
        if (held := getattr(driver, "exports", None)) is None:
            trial.skip("its framework has no export of its own")
        driver = Driven(held, ExportDriver, trial.subject.target, trial.undecided)
    return cast("ExportDriver", driver)


# -- other inputs ------------------------------------------------------------------------------------------------------
@laws.law(
    "X1",
    "fresh_inputs",
    priority=0,
    seconds=90,
    why="A trace holds one path through the program; a number or branch that the example decided is wrong for other inputs.",
    satisfy="Keep numbers in arrays: make none a Python number, and choose between values by a selection, not by a branch.",
    catches=("pytorch#80973", "a Python float of a tensor baked into the graph", "a branch frozen when tracing"),
)
def fresh_inputs(trial: Trial) -> None:
    """The artefact gives what the model gives in evaluation, on other values, signs, branches and masks than those traced."""
    driver = driver_of(trial)
    for case in driver.cases(trial):
        with trial.case(model=case.said, size=TRACED), exported(trial, case, driver) as artefact:
            compare_on_fresh_inputs(trial, driver, case, opened(trial, case, artefact))


# -- other sizes -------------------------------------------------------------------------------------------------------
@laws.law(
    "X2",
    "dynamic_range",
    kinds=("export",),
    priority=0,
    seconds=90,
    why="Serving sees one record, then many; an artefact that only fits the example's size fails there, or is silently wrong.",
    satisfy="Hand dynamic_shapes to the tracer for every input; state tags={'static'} where one size is meant.",
    catches=("pytorch#133653", "pytorch#140011"),
)
def dynamic_range(trial: Trial) -> None:
    """Traced once, the artefact gives what the model gives for 1, 2, odd and many records, not at the traced size alone."""
    if trial.has("static"):
        trial.skip("it declares that its artefacts hold one size")
    driver = driver_of(trial)
    for case in driver.cases(trial):
        with trial.case(model=case.said, traced=TRACED), exported(trial, case, dynamic=True) as artefact:
            run, sizes = opened(trial, case, artefact), sorted({*trial.example.dynamic, 33})
            results = [compare_at_size(trial, driver, case, run, size) for size in sizes]
            trial.control("sizes give other results", differs(results[0], results[-1]))


# -- elsewhere ---------------------------------------------------------------------------------------------------------
@laws.law(
    "X3",
    "without_source",
    priority=0,
    seconds=150,
    why="An artefact that needs the training code, its package or its version is not deployed but copied.",
    satisfy="Save a program and not a pickle of objects; name modules that register operators in `runtime`.",
    catches=("a pickled module", "an operator that only the training package registers"),
)
def without_source(trial: Trial) -> None:
    """Saved and loaded in a fresh process that cannot import the model's source, the artefact gives what the model gives."""
    if trial.has("in_memory"):
        trial.skip("it declares that its artefacts live in memory")
    driver = driver_of(trial)
    made: list[tuple[ExportCase, Path, list[tuple[Any, ...]]]] = []
    with ExitStack() as kept, trial.case(size=TRACED, process="fresh"):
        for case in list(driver.cases(trial))[:2]:
            artefact = kept.enter_context(exported(trial, case, driver))
            if not isinstance(artefact, (str, Path)):
                trial.undecided(
                    f"it made a {type(artefact).__name__}, which another process cannot open: return the path of a file, "
                    "or state tags={'in_memory'}"
                )
            made.append((case, Path(artefact), [case.inputs(TRACED, f"elsewhere {i}") for i in range(2)]))
        blocked = sorted(set().union(*(case.sources for case, _, _ in made)))
        results = driver.elsewhere(trial, made, blocked)
        if isinstance(results, str):
            trial.fail(f"in a fresh process without {', '.join(blocked) or 'its source'}: {results}",
                       cause="the artefact holds references to code, and not the program itself")  # fmt: skip
        for (case, _, calls), found in zip(made, results, strict=True):
            with trial.case(model=case.said):
                for given, got in zip(calls, found, strict=True):
                    agree(trial, driver, case, "the artefact elsewhere", got, case.build(), given)


# -- as it was ---------------------------------------------------------------------------------------------------------
@laws.law(
    "X4",
    "evaluation_and_original",
    priority=1,
    seconds=90,
    why="An artefact that keeps dropout on, or old statistics, serves another model; an export may ruin the model it is given.",
    satisfy="Trace in evaluation, with the weights as they are now, into storage of its own; put every part's mode back.",
    catches=("a training graph exported", "shared weights stored twice", "a model left in evaluation mode"),
)
def evaluation_and_original(trial: Trial) -> None:
    """The artefact is the model in evaluation, as it is now, in memory of its own; the model stays as it was."""
    driver = driver_of(trial)
    for case in driver.cases(trial):
        with trial.case(model=case.said, size=TRACED):
            _as_it_was(trial, driver, case)
    if trial.subject.kind == "export":
        _weights_once(trial, driver)


def _as_it_was(trial: Trial, driver: ExportDriver, case: ExportCase) -> None:
    given, seed = case.inputs(TRACED, "fresh"), derive(trial.seed, "trained")
    model, twin = driver.trained(case, seed), driver.trained(case, seed)
    before = driver.state(model)
    # Before any call: what a trace leaves behind must not be there already.
    with exported(trial, case, model=model) as artefact:
        same(trial, "the model after its export", driver.state(model), before, cause="the export changed the model")
        run = opened(trial, case, artefact)
        got = called(trial, "the artefact", run, given)
        if not driver.draws(twin, given):
            again = called(trial, "the artefact", run, given, seed=1)
            same(trial, "the artefact from another seed", again, got, cause="it is in training mode: dropout is on")
        cause = "not the present weights in evaluation"
        want = agree(trial, driver, case, "the artefact of a trained model", got, twin, given, cause=cause)
        cause = "the artefact writes into the model's memory"
        same(trial, "the model after its artefact ran", driver.state(model), before, cause=cause)
        if trial.subject.kind != "export" and (names := driver.sharing(model, artefact)) is not None:
            same(trial, "which names share a weight", *names, cause="a shared weight was stored twice")
        driver.train(model, derive(trial.seed, "later"))
        later = called(trial, "the artefact", run, given)
        same(trial, "the artefact after the model was trained on", later, got, cause="it shares memory with the model")
    driver.take(model, twin)  # what differs then is not in its state
    untouched = called(trial, "the model after its export", partial(driver.call, model), given)
    same(trial, "the model after its export", untouched, want, cause="tracing left something in the model")
    if before["parameters"]:
        first = called(trial, "the model itself", partial(driver.call, case.build()), given)
        trial.control("training changes the result", differs(first, want))


def _weights_once(trial: Trial, driver: ExportDriver) -> None:
    """A file of a model in which one weight is shared is smaller than that of the same model with two."""
    if (pair := driver.tied(trial)) is None:
        return
    *cases, size = pair
    written = []
    for case, tied in zip(cases, (True, False), strict=True):
        with trial.case(model=case.said, tied=tied), exported(trial, case) as artefact:
            if not isinstance(artefact, (str, Path)):
                return
            written.append(sum(f.stat().st_size for f in Path(artefact).parent.rglob("*") if f.is_file()))
    trial.demand(
        written[1] - written[0] >= size // 16,
        f"with its two matrices tied the file has {written[0]} bytes, and {written[1]} with two",
        measured=written[0], allowed=f"less than {written[1]}", cause="a shared weight is stored twice",
    )  # fmt: skip
