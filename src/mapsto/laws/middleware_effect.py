"""Laws of what middleware are for: as they are used they change something, and averages start, move and lend as they say."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.calls import called, defaults_of, maker_of
from ..core.laws import Laws, Trial
from .compare import Array, differs, same
from .drivers import MiddlewareDriver, MiddlewareProgram
from .middleware_inputs import Evaluations, in_the_recipe, item, name, program, provides, run

laws = Laws("middleware", driver=MiddlewareDriver)

STEPS, LONG = 5, 8


@laws.law(
    "M11",
    "effect",
    priority=0,
    seconds=90,
    why="A middleware that is never reached, or edits a copy, is believed to be at work: whoever compares runs compares noise.",
    satisfy="Wrap the mapping and return the wrapped one; write into the tensors themselves. Where it changes no number on "
    "purpose (memory, speed, rare events) declare tags={'same_result'}.",
    catches=("a clipping of detached copies", "a hook that is never registered", "a schedule of strength that stays zero"),
)
def effect(trial: Trial) -> None:
    """As its example has it, five steps change something: weights, what evaluations use, metrics, state, calls of the loss."""
    if trial.has("same_result"):
        trial.skip("it changes no number on purpose, as it declares")
    if "drift" in trial.example.more:
        trial.skip("it acts among ranks, as its `drift` says: exact_exchange and bounded_drift judge that")
    in_the_recipe(trial)
    seen = []
    for items in ([item(trial)], []):
        made = program(trial, items, evaluations=(loss := Evaluations()))
        metrics = run(trial, made, STEPS)
        told = [made.fetch([m]) for m in metrics]
        seen.append(
            {
                "weights and statistics": made.trained(),
                "evaluation weights": made.evaluation_weights(),
                "metrics": {f"{step}.{k}": v for step, m in enumerate(told) for k, v in m.items()},
                "its own state": _own_state(made),
                "evaluations of the loss": loss.calls,
            }
        )
    mine, bare = seen
    changed = [what for what in mine if differs({what: mine[what]}, {what: bare[what]})]
    by_name = getattr(trial.subject.driver, "acts_by_name", None)
    if not changed and "model" not in trial.example.more and by_name is not None and by_name(trial):
        trial.undecided(
            f"it asks for names of parameters or modules, and {STEPS} steps of the small model here, which has others (embed, "
            "block, head), are those without it: check it in its recipe, or write beside it\n"
            f"  mapsto.example({name(trial)}, args={{...}}, model=..., inputs=lambda size, generator: (batch,), task=...)"
        )
    with trial.case(steps=STEPS, args=str(dict(trial.example.args))[:120]):
        trial.demand(
            bool(changed),
            f"{STEPS} steps with it are those without it to the last bit: weights, evaluation weights, metrics, state",
            measured="no difference",
            allowed="some difference",
            cause="it is never reached, it acts on copies, or these arguments are its neutral ones (state others in args)",
        )
    other = program(trial, [], seed=trial.seed + 1)
    run(trial, other, STEPS)
    trial.control("another seed differs", differs(other.trained(), bare["weights and statistics"]))


def _own_state(made: MiddlewareProgram) -> Any:
    return {k: v for k, v in (made.state_tree().get("middleware") or {}).items() if v}


@laws.law(
    "M12",
    "average",
    priority=0,
    tolerance="T1",
    seconds=90,
    why="An average that starts from zero, never moves, or is not what evaluation uses reports another model than is kept.",
    satisfy="Say what it keeps: mapsto.example(it, average=lambda average, weights, t, decay: ...), for one array at update t "
    "= 1, 2, ...; start from the initial weights, move after each update, lend in `evaluation_weights`.",
    catches=(
        "an average that is never updated",
        "an average updated before the step",
        "a decay that is used the wrong way round",
    ),
)
def average(trial: Trial) -> None:
    """What evaluations use after each update is the stated `average` of the weights so far; where none is stated, it lies
    between the least and the largest of them, moves, and is not the last.
    """
    formula = trial.example.more.get("average")
    if formula is None and "averaged_weights" not in provides(trial):
        trial.skip("it keeps no averages: neither does it provide 'averaged_weights' nor state an `average`")
    made = program(trial, [item(trial)], plain=True, momentum=True)
    history = [made.parameters()]
    kept, used = history[0], [made.evaluation_weights()]
    args = defaults_of(maker_of(trial.subject.target), trial.example.args)
    for t in range(1, LONG + 1):
        run(trial, made, t)
        history.append(made.parameters())
        used.append(made.evaluation_weights())
        with trial.case(update=t):
            if formula is not None:
                kept = {n: np.asarray(called(formula, (a, history[-1][n], t), **args)) for n, a in kept.items()}
                same(trial, "the average", used[-1], kept, tolerance="T1", cause=_cause(used, history))
            else:
                _between(trial, used[-1], history)
    moving = [differs(used[t], used[t - 1]) for t in range(1, LONG + 1)]
    trial.demand(any(moving), f"what evaluations use is the same after each of {LONG} updates", cause="it never moves")
    lent = any(differs(u, h) for u, h in zip(used[1:], history[1:], strict=True))
    trial.demand(lent, f"after each of {LONG} updates evaluations use the last weights", cause="it is never lent")
    trial.control("weights move", differs(history[-1], history[0]))


def _between(trial: Trial, used: dict[str, Array], history: list[dict[str, Array]]) -> None:
    for path, value in used.items():
        seen = np.stack([h[path] for h in history])
        low, high = seen.min(0), seen.max(0)
        room = 1e-6 * np.abs(seen).max()
        trial.demand(
            bool(((value >= low - room) & (value <= high + room)).all()),
            f"{name(trial)}: what evaluations use for {path} is no average of the weights so far",
            first={"tensor": path},
            cause="it does not start from the initial weights, or its shares do not add up to one",
        )


def _cause(used: list[dict[str, Array]], history: list[dict[str, Array]]) -> str | None:
    if not differs(used[-1], history[-1]):
        return "evaluations use the last weights: nothing is lent, or nothing is averaged"
    return "it did not move in this update" if not differs(used[-1], used[-2]) else None
