"""Laws of middleware, mapping -> mapping: neutral settings, accumulation, what gradient editors see, resuming, exceptions."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ..core.laws import Laws, Trial
from .compare import RTOL, Array, differs, leaves, same
from .drivers import MiddlewareDriver, MiddlewareProgram
from .middleware_inputs import RECORDS, Evaluations, item, name, program, provides, run, wraps

laws = Laws("middleware", driver=MiddlewareDriver)
STEPS = 3


# -- neutral -----------------------------------------------------------------------------------------------------------
@laws.law(
    "M1",
    "neutral",
    priority=0,
    seconds=90,
    why="What does nothing must change nothing: a hidden side effect is in every run, and nobody looks for it there.",
    satisfy="Return `inner` itself where there is nothing to do, draw only from state.generator(name), and copy no gradients.",
    catches=("an extra draw from the default generator", "a factor of 1 that is rounded through float32"),
)
def neutral(trial: Trial) -> None:
    """With its neutral setting three steps leave the bits of the bare program: weights, buffers and optimizer state."""
    if "neutral" not in trial.example.more:
        trial.not_stated(
            f"state arguments with which it changes nothing: mapsto.example({name(trial)}, args={{...}}, neutral={{...}}), or "
            "neutral=None where there are none"
        )
    settings = trial.example.more["neutral"]
    if settings is None:
        trial.skip("its author says that it has no neutral setting")
    bare = program(trial, [])
    run(trial, bare, STEPS)
    for setting in settings if isinstance(settings, list) else [settings]:
        with trial.case(neutral=str(setting), steps=STEPS):
            made = program(trial, [item(trial, setting)])
            run(trial, made, STEPS)
            same(trial, "after three steps", made.trained(), bare.trained(), cause="a side effect of the neutral setting")
    other = program(trial, [], seed=trial.seed + 1)
    run(trial, other, STEPS)
    trial.control("another seed differs", differs(other.trained(), bare.trained()))


# -- accumulation ------------------------------------------------------------------------------------------------------
@laws.law(
    "M2",
    "accumulation",
    priority=0,
    tolerance="T1",
    seconds=90,
    why="Micro-batches are a matter of memory; where they change the gradient, two machines train two models.",
    satisfy="Edit gradients in `update` (or stand before 'accumulate'), sum losses, divide once; or declare per_micro_batch.",
    catches=("accelerate#641", "transformers#1563", "torchtune#1875: a mean of means", "clipping each micro-batch"),
)
def accumulation(trial: Trial) -> None:
    """Uneven micro-batches of a batch give the weights of the batch at once, in float64, wherever it stands in the list."""
    if trial.has("low_precision"):
        trial.skip("it computes in low precision, as it declares: sums of micro-batches are rounded")
    if trial.has("per_micro_batch"):
        trial.skip("it declares that it acts on each micro-batch for itself")
    its_own = "accumulation" in provides(trial) or trial.has("accumulates")
    driver: MiddlewareDriver = trial.driver
    whole = program(trial, [] if its_own else [item(trial)], plain=True, momentum=True)
    run(trial, whole, STEPS)
    orders = [[item(trial)]] if its_own else [[item(trial), driver.micro_batches], [driver.micro_batches, item(trial)]]
    for number, order in enumerate(orders):
        with trial.case(records=13, micro_batches=3, place="alone" if its_own else ("outside", "inside")[number]):
            made = program(trial, order, plain=True, momentum=True, evaluations=(loss := Evaluations()))
            run(trial, made, STEPS)
            if its_own:
                trial.demand(
                    loss.calls > STEPS, f"it says that it accumulates, and called the loss {loss.calls} times in {STEPS} steps"
                )
            got, want = made.parameters(), whole.parameters()
            same(trial, "weights", got, want, tolerance="T1", cause=_cause(got, want))
    trial.control("a mean of means differs", _mean_of_means(trial))


def _cause(mine: dict[str, Array], theirs: dict[str, Array]) -> str | None:
    far = max(_norm(mine[n] - theirs[n]) / _norm(theirs[n]) for n in theirs)
    return "it acts on each micro-batch, where the whole batch is meant" if far > 1e3 * RTOL else None


def _norm(array: Array) -> float:
    return float(np.sqrt((array.astype(np.float64) ** 2).sum()))


def _mean_of_means(trial: Trial) -> bool:
    """Whether averaging the mean losses of the micro-batches would be told from the gradient of the batch."""
    whole, *parts = (_gradient(trial, cut) for cut in (slice(None), slice(0, 4), slice(4, 8), slice(8, 13)))
    mean = {n: np.mean([part[n] for part in parts], axis=0) for n in whole}
    return any(_norm(mean[n] - whole[n]) > 1e-6 * _norm(whole[n]) for n in whole)


def _gradient(trial: Trial, cut: slice) -> dict[str, Array]:
    """The gradient of the mean loss over some records of the first batch, by a program without middleware."""
    driver: MiddlewareDriver = trial.driver
    watch = driver.watch("update")
    made = program(trial, [watch], plain=True)
    made.step({n: v[cut] for n, v in made.batch(0, RECORDS).items()})
    return watch.seen[-1]


# -- gradients ---------------------------------------------------------------------------------------------------------
@laws.law(
    "M3",
    "true_gradients",
    priority=0,
    tolerance="T1",
    seconds=90,
    why="Clipping gradients that still carry a loss scale clips all of them to nothing; clipping parts clips another norm.",
    satisfy="Edit gradients in `update`, which sees them unscaled and fully accumulated; state the formula as edits=.",
    catches=("pytorch/examples#1196", "nano-world-model#22", "clip before unscale"),
)
def true_gradients(trial: Trial) -> None:
    """What edits gradients is given those of the whole batch, unscaled, and does with them what its author's formula says."""
    edits, norm = trial.example.more.get("edits"), trial.example.more.get("norm")
    given, left, metrics = _passing(trial, [])
    if edits is None and norm is None:
        changed = "update" in wraps(trial) and differs(left, given)
        if trial.has("adds_noise") or not changed:
            trial.skip("it adds noise, as it declares: no formula tells which" if changed else "it edits no gradients")
        said = f"mapsto.example({name(trial)}, edits=lambda gradients: [...])"
        trial.not_stated(
            f"it changes gradients before the update: state how, {said}, a list of the same tensors, edited, or declare "
            "tags={'adds_noise'}"
        )
    driver: MiddlewareDriver = trial.driver
    oracle = _oracle(trial)
    wanted = oracle if edits is None else driver.edited(trial, oracle)
    for within, around in (("alone", []), ("three micro-batches", [driver.micro_batches])):
        with trial.case(records=13, within=within):
            _, left, metrics = _passing(trial, around)
            if edits is not None:
                same(trial, "the gradients that the optimizer is given", left, wanted, tolerance="T1")
            if norm is not None:
                _its_norm(trial, metrics, norm, oracle, 1e-9)
    for place in ("outside", "inside"):
        if norm is None or driver.scaled is None:
            break
        with trial.case(records=13, beside="float16 with a loss scale", place=place):
            order = [item(trial), driver.scaled]
            made = program(trial, order if place == "outside" else order[::-1])
            _its_norm(trial, made.fetch(run(trial, made, 1)), norm, _oracle(trial, plain=False), 0.05)
    if edits is not None:
        trial.control("the formula changes the gradients", differs(wanted, oracle))


def _passing(trial: Trial, around: list[Any]) -> tuple[dict[str, Array], dict[str, Array], dict[str, float]]:
    """Gradients before and after all that wraps `update`, and the step's metrics, in float64."""
    before, after = trial.driver.watch("grad"), trial.driver.watch("update")
    made = program(trial, [before, item(trial), *around, after], plain=True)
    metrics = made.fetch(run(trial, made, 1))
    return before.seen[-1], after.seen[-1], metrics


def _oracle(trial: Trial, *, plain: bool = True) -> dict[str, Array]:
    """The gradient of the mean loss over the batch, by a program without middleware."""
    driver: MiddlewareDriver = trial.driver
    watch = driver.watch("update")
    run(trial, program(trial, [watch], plain=plain), 1)
    return watch.seen[-1]


def _its_norm(trial: Trial, metrics: dict[str, float], name: str, oracle: dict[str, Array], allowed: float) -> None:
    trial.demand(name in metrics, f"it gives no metric {name!r}; there are {', '.join(metrics)}")
    seen, true = metrics[name], float(np.sqrt(sum(_norm(g) ** 2 for g in oracle.values())))
    ratio = seen / true
    cause = "the loss scale" if ratio > 1000 else "parts of the batch" if abs(ratio - 1) > 0.05 else None
    trial.demand(
        abs(ratio - 1) <= allowed,
        f"its {name} is {seen:.9g}, and the norm is {true:.9g}",
        measured=ratio,
        allowed=f"1 +- {allowed}",
        cause=cause,
    )


# -- resuming ----------------------------------------------------------------------------------------------------------
@laws.law(
    "M4",
    "resume",
    priority=0,
    seconds=120,
    why="State that no checkpoint holds makes a resumed run another run, from the first step on.",
    satisfy="Save all that the next step depends on, and put all of it back.",
    catches=("averages that start afresh", "a loss scale that starts again", "a counter of updates that is lost"),
)
def resume(trial: Trial) -> None:
    """From the state of any step a fresh program goes on with the bits of an uninterrupted one, its own state included."""
    last = 5
    driver: MiddlewareDriver = trial.driver
    whole = program(trial, [item(trial)])
    saved = [_tree(whole)]
    for step in range(last):
        run(trial, whole, step + 1)
        with trial.component("saving its state"):
            saved.append(_tree(whole))
    evaluated, arrays = whole.evaluation_weights(), [driver.arrays(tree) for tree in saved]
    for cut in range(last):
        with trial.case(saved_at=cut, steps=last):
            made = program(trial, [item(trial)])
            if cut == 2:
                run(trial, made, 1)  # what it holds of its own must not stay
            _restored(trial, made, saved[cut])
            same(trial, "the state right after a restore", driver.arrays(made.state_tree()), arrays[cut])
            run(trial, made, last)
            end, cause = driver.arrays(made.state_tree()), "state that is not in what it saves"
            same(trial, "the state at the end", end, arrays[last], cause=cause)
            same(trial, "the weights of an evaluation at the end", made.evaluation_weights(), evaluated, cause=cause)
    trial.control("a cold start differs", differs(arrays[0], arrays[last]))
    for key, own in arrays[3]["middleware"].items():
        if leaves(own) and any(k for k in leaves(own) if k != "output"):
            made = program(trial, [item(trial)])
            fresh = _tree(made)["middleware"][key]
            _restored(trial, made, {**saved[3], "middleware": {**saved[3]["middleware"], key: fresh}})
            run(trial, made, last)
            trial.control(f"without the state of {key} it differs", differs(driver.arrays(made.state_tree()), arrays[last]))


def _tree(made: MiddlewareProgram) -> dict[str, Any]:
    return copy.deepcopy(made.state_tree())


def _restored(trial: Trial, made: MiddlewareProgram, tree: dict[str, Any]) -> None:
    with trial.component("restoring its state"):
        made.restore(copy.deepcopy(tree))
