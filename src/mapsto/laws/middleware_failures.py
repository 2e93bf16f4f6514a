"""Laws of middleware that fails or stands beside others: exceptions, weights for evaluation, other middleware, one record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..core.laws import Laws, Trial
from .compare import differs, same
from .drivers import MiddlewareDriver, MiddlewareProgram
from .middleware_inputs import RECORDS, Evaluations, Interrupted, item, program, run

laws = Laws("middleware", driver=MiddlewareDriver)


@laws.law(
    "M5",
    "exceptions",
    priority=1,
    seconds=120,
    why="A step that fails (out of memory, a broken batch) is often caught; what stays swapped then is trained.",
    satisfy="Change weights, modes, state.shard and state.model only within try/finally or a context manager.",
    catches=("Open-Sora-Plan#186: averages stay in the model", "SAM left at the perturbed weights"),
)
def exceptions(trial: Trial) -> None:
    """An exception within a step leaves weights, modes and state as before it, and the next step as it would have been."""
    loss = Evaluations()
    whole = program(trial, [item(trial)], evaluations=loss)
    run(trial, whole, 1)
    calls = loss.calls
    run(trial, whole, 2)
    for at in [*range(1, calls + 1), "update"]:
        with trial.case(raised_in="update" if at == "update" else f"call {at} of the loss", calls=calls):
            loss, watch = Evaluations(), trial.driver.watch("update")
            made = program(trial, [item(trial), watch], evaluations=loss)
            run(trial, made, 1)
            snapshot = made.snapshot()
            loss.calls, loss.at, watch.failing = 0, at if isinstance(at, int) else 0, at == "update"
            if not _interrupted(trial, made):
                trial.exercised("exceptions that it handles itself")
                continue
            loss.at, watch.failing = 0, False
            same(trial, "after an exception", made.snapshot(), snapshot, cause="it is not put back where an exception passes")
            run(trial, made, 2)
            same(
                trial,
                "the step after an exception",
                made.parameters(),
                whole.parameters(),
                cause="state of the failed step is left over",
            )
    trial.control("a step changes the weights", differs(snapshot["weights"], whole.parameters()))


def _interrupted(trial: Trial, made: MiddlewareProgram) -> bool:
    """Whether the exception came out of the step."""
    try:
        made.step(made.batch(made.position, RECORDS))
    except Exception as error:  # noqa: BLE001  # the program may explain it by another
        if not _is_ours(error):
            trial.fail(
                f"an exception within the step came out as {type(error).__name__}: {str(error)[:200]}, which does not tell it"
            )
        return True
    return False


def _is_ours(error: BaseException | None) -> bool:
    """Whether it is the interruption, or was raised because of it."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__cause__ or error.__context__
    return error is not None


@laws.law(
    "M5b",
    "evaluation_weights",
    priority=0,
    why="Weights that are swapped for an evaluation and not taken back are trained on, and saved as the canonical ones.",
    satisfy="Write evaluation_weights(state) as a context manager whose `finally` copies the kept weights back.",
    catches=("EMA left swapped after an exception", "Open-Sora-Plan#186"),
)
def evaluation_weights(trial: Trial) -> None:
    """After an evaluation, also one that raises, weights, modes and the steps that follow are those of a run without it."""
    whole = program(trial, [item(trial)])
    run(trial, whole, 3)
    for how in ("ends", "raises"):
        with trial.case(evaluation=how):
            made = program(trial, [item(trial)])
            run(trial, made, 2)
            snapshot = made.snapshot()
            with trial.component("weights for evaluation"):
                try:
                    made.evaluate(_batches(made, raises=how == "raises"))
                except Exception as error:
                    if how == "ends" or not _is_ours(error):
                        raise
                    trial.exercised("exceptions")
            same(trial, "after an evaluation", made.snapshot(), snapshot, cause="the weights for evaluation are not taken back")
            run(trial, made, 3)
            same(
                trial,
                "the step after an evaluation",
                made.parameters(),
                whole.parameters(),
                cause="an evaluation changes training",
            )
    trial.control("a step changes the weights", differs(snapshot["weights"], whole.parameters()))


def _batches(made: MiddlewareProgram, raises: bool) -> Iterator[Any]:
    """One batch, and perhaps an exception where another is asked for."""
    yield made.batch(0, RECORDS)
    if raises:
        raise Interrupted


@laws.law(
    "M6",
    "commuting",
    priority=1,
    tolerance="T1",
    why="A list whose order decides, although it is said not to, gives other results when someone sorts it.",
    satisfy="Declare only pairs that act on different things; declare before/after for the others.",
    catches=("noise and clipping declared to commute",),
)
def commuting(trial: Trial) -> None:
    """With each middleware that it declares to commute with, both orders of the list give the same weights in float64."""
    others = trial.example.more.get("commutes")
    if not others:
        trial.skip("it declares no middleware to commute with (commutes=[use(...), ...])")
    for other in others:
        with trial.case(other=str(getattr(other, "name", other))):
            found = []
            for order in ([item(trial), other], [other, item(trial)]):
                made = program(trial, order, plain=True, momentum=True)
                run(trial, made, 3)
                found.append(made.parameters())
            same(trial, "weights", found[1], found[0], tolerance="T1", cause="the order decides")
            alone = program(trial, [other], plain=True, momentum=True, seed=trial.seed + 1)
            run(trial, alone, 3)
            trial.control("another seed differs", differs(alone.parameters(), found[0]))


@laws.law(
    "M7",
    "small_batches",
    priority=1,
    why="The last batch of an epoch may hold one record; a step on it must neither fail nor make weights that are no numbers.",
    satisfy="Divide by weights that may be 0, take statistics of one record, and pass on what cannot be split.",
    catches=("a standard deviation of one record", "accumulation over more micro-batches than records"),
)
def small_batches(trial: Trial) -> None:
    """Steps on batches of 13, 2 and 1 records work and leave finite weights."""
    for size in (1, 2, 13):
        with trial.case(records=size):
            made = program(trial, [item(trial)], plain=True)
            metrics = run(trial, made, 2, size=size)
            with trial.component("fetching the metrics"):
                found = made.fetch(metrics)
            wrong = [n for n, p in made.parameters().items() if not np.isfinite(p).all()]
            trial.demand(
                not wrong, f"{', '.join(wrong)} are no numbers after 2 steps", first={"tensor": wrong[0] if wrong else ""}
            )
            trial.demand(
                isinstance(found, Mapping) and found.get("loss", 0.0) == found.get("loss", 0.0), "the loss is not a number"
            )
    bare = program(trial, [], plain=True)
    trial.control("steps change the weights", differs(bare.parameters(), made.parameters()))
