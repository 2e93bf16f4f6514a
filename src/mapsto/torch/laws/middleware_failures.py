"""Laws of middleware where something goes wrong or stands beside it: exceptions, lent weights, other middleware, one record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...core.laws import Laws, Trial
from ..drivers.middleware import Failing, Interrupted, Sees, batch_of, item, parameters, program, run
from ..program import Program
from .compare import differs, same

laws = Laws("middleware")


def _held(made: Program) -> dict[str, Any]:
    """All that an exception must leave as it was."""
    model = made.state.model
    return {
        "weights": parameters(made),
        "modes": {n or "model": m.training for n, m in model.named_modules()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "state": {
            "model": type(model).__name__,
            "shard": made.state.shard,
            "summing": made.state.summing,
            "training": made.state.training,
            "step": made.state.step,
        },
        "hooks": _hooks(model),
    }


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


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
    inner = trial.example.more.get("task")
    task = Failing(inner)
    whole = program(trial, [item(trial)], task=task)
    run(trial, whole, 1)
    calls = task.calls
    run(trial, whole, 2)
    for at in [*range(1, calls + 1), "update"]:
        with trial.case(raised_in="update" if at == "update" else f"call {at} of the loss", calls=calls):
            task, sees = Failing(inner), Sees("update")
            made = program(trial, [item(trial), sees], task=task)
            run(trial, made, 1)
            held = _held(made)
            task.calls, task.at, sees.failing = 0, at if isinstance(at, int) else 0, at == "update"
            if not _interrupted(trial, made):
                trial.exercised("exceptions that it handles itself")
                continue
            task.at, sees.failing = 0, False
            same(trial, "after an exception", _held(made), held, cause="it is not put back where an exception passes")
            run(trial, made, 2)
            same(
                trial,
                "the step after an exception",
                parameters(made),
                parameters(whole),
                cause="state of the failed step is left over",
            )
    trial.control("a step changes the weights", differs(held["weights"], parameters(whole)))


def _interrupted(trial: Trial, made: Program) -> bool:
    """Whether the exception came out of the step."""
    try:
        made.step(batch_of(trial, made.position))
    except Exception as error:  # noqa: BLE001  # the program may explain it by another
        chain: BaseException | None = error
        while chain is not None and not isinstance(chain, Interrupted):
            chain = chain.__cause__ or chain.__context__
        if chain is None:
            trial.fail(
                f"an exception within the step came out as {type(error).__name__}: {str(error)[:200]}, which does not tell it"
            )
        return True
    return False


@laws.law(
    "M5b",
    "lending",
    priority=0,
    why="Weights that are swapped for an evaluation and not taken back are trained on, and saved as the canonical ones.",
    satisfy="Write lend(state) as a context manager whose `finally` copies the kept weights back.",
    catches=("EMA left swapped after an exception", "Open-Sora-Plan#186"),
)
def lending(trial: Trial) -> None:
    """After an evaluation, also one that raises, weights, modes and the steps that follow are those of a run without it."""
    whole = program(trial, [item(trial)])
    run(trial, whole, 3)
    for how in ("ends", "raises"):
        with trial.case(evaluation=how):
            made = program(trial, [item(trial)])
            run(trial, made, 2)
            held = _held(made)
            try:
                with trial.component("lending weights"), made.evaluating() as state:
                    state.model(batch_of(trial, 0)["input"])
                    if how == "raises":
                        raise Interrupted
            except Interrupted:
                trial.exercised("exceptions")
            except Exception as error:
                if how == "ends" or "Interrupted" not in repr(error):
                    raise
            same(trial, "after an evaluation", _held(made), held, cause="what was lent is not taken back")
            run(trial, made, 3)
            same(
                trial,
                "the step after an evaluation",
                parameters(made),
                parameters(whole),
                cause="an evaluation changes training",
            )
    trial.control("a step changes the weights", differs(held["weights"], parameters(whole)))


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
                run(trial, made, 3, dtype=torch.float64)
                found.append(parameters(made))
            same(trial, "weights", found[1], found[0], tolerance="T1", cause="the order decides")
            alone = program(trial, [other], plain=True, momentum=True, seed=trial.seed + 1)
            run(trial, alone, 3, dtype=torch.float64)
            trial.control("another seed differs", differs(parameters(alone), found[0]))


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
            metrics = run(trial, made, 2, dtype=torch.float64, size=size)
            with trial.component("fetching the metrics"):
                found = made.fetch(metrics)
            wrong = [n for n, p in parameters(made).items() if not bool(p.isfinite().all())]
            trial.demand(
                not wrong, f"{', '.join(wrong)} are no numbers after 2 steps", first={"tensor": wrong[0] if wrong else ""}
            )
            trial.demand(
                isinstance(found, Mapping) and found.get("loss", 0.0) == found.get("loss", 0.0), "the loss is not a number"
            )
    bare = program(trial, [], plain=True)
    trial.control("steps change the weights", differs(parameters(bare), parameters(made)))
