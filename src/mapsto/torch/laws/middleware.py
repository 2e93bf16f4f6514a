"""Laws of middleware, mapping -> mapping: neutral settings, accumulation, what gradient editors see, resuming, exceptions."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ...core.laws import Laws, Trial
from ...core.values import use
from ..drivers.middleware import (
    ACCUMULATE,
    Failing,
    Sees,
    batch_of,
    item,
    parameters,
    program,
    provides,
    run,
    trained,
    wraps,
)
from ..mappings import Metrics
from ..program import Program
from .compare import RTOL, differs, leaves, same

laws = Laws("middleware")
STEPS = 3


def _name(trial: Trial) -> str:
    return trial.subject.label.rpartition(":")[2].rpartition("/")[2].rpartition(".")[2]


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
        trial.undecided(
            f"state arguments with which it changes nothing: mapsto.example({_name(trial)}, args={{...}}, neutral={{...}}), or "
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
            same(trial, "after three steps", trained(made), trained(bare), cause="a side effect of the neutral setting")
    other = program(trial, [], seed=trial.seed + 1)
    run(trial, other, STEPS)
    trial.control("another seed differs", differs(trained(other), trained(bare)))


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
    whole = program(trial, [] if its_own else [item(trial)], plain=True, momentum=True)
    run(trial, whole, STEPS, dtype=torch.float64)
    orders = [[item(trial)]] if its_own else [[item(trial), ACCUMULATE], [ACCUMULATE, item(trial)]]
    for number, order in enumerate(orders):
        with trial.case(records=13, micro_batches=3, place="alone" if its_own else ("outside", "inside")[number]):
            made = program(trial, order, plain=True, momentum=True, task=(task := Failing(trial.example.more.get("task"))))
            run(trial, made, STEPS, dtype=torch.float64)
            if its_own:
                trial.demand(
                    task.calls > STEPS, f"it says that it accumulates, and called the loss {task.calls} times in {STEPS} steps"
                )
            same(trial, "weights", parameters(made), parameters(whole), tolerance="T1", cause=_cause(made, whole))
    trial.control("a mean of means differs", _mean_of_means(trial))


def _cause(made: Program, whole: Program) -> str | None:
    mine, theirs = parameters(made), parameters(whole)
    far = max(float((mine[n] - theirs[n]).norm() / theirs[n].norm()) for n in theirs)
    return "it acts on each micro-batch, where the whole batch is meant" if far > 1e3 * RTOL else None


def _mean_of_means(trial: Trial) -> bool:
    """Whether averaging the mean losses of the micro-batches would be told from the gradient of the batch."""
    made = program(trial, [], plain=True)
    made.state.clear()
    batch = batch_of(trial, 0, dtype=torch.float64)
    made.grad(made.state, batch)
    whole = {n: p.grad.clone() for n, p in made.model.named_parameters() if p.grad is not None}
    made.state.clear()
    for start, stop in ((0, 4), (4, 8), (8, 13)):
        made.grad(made.state, {n: v[start:stop] for n, v in batch.items()})
    mean = {n: p.grad / 3 for n, p in made.model.named_parameters() if p.grad is not None}
    return any(float((mean[n] - whole[n]).norm()) > 1e-6 * float(whole[n].norm()) for n in whole)


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
        said = f"mapsto.example({_name(trial)}, edits=lambda gradients: [...])"
        trial.undecided(
            f"it changes gradients before the update: state how, {said}, a list of the same tensors, edited, or declare "
            "tags={'adds_noise'}"
        )
    oracle = _oracle(trial)
    for name, around in (("alone", []), ("three micro-batches", [ACCUMULATE])):
        with trial.case(records=13, within=name):
            _, left, metrics = _passing(trial, around)
            if edits is not None:
                wanted = dict(zip(oracle, edits(list(oracle.values())), strict=True))
                same(trial, "the gradients that the optimizer is given", left, wanted, tolerance="T1")
            if norm is not None:
                _norm(trial, metrics, norm, oracle, 1e-9)
    for place in ("outside", "inside"):
        if norm is None:
            break
        with trial.case(records=13, beside="float16 with a loss scale", place=place):
            order = [item(trial), use("mixed_precision", dtype="fp16")]
            made = program(trial, order if place == "outside" else order[::-1])
            _norm(trial, run(trial, made, 1)[0], norm, _oracle(trial, plain=False), 0.05)
    if edits is not None:
        trial.control("the formula changes the gradients", differs(edits(list(oracle.values())), list(oracle.values())))


def _passing(trial: Trial, around: list[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor], Metrics]:
    """Gradients before and after all that wraps `update`, and the step's metrics, in float64."""
    before, after = Sees("grad"), Sees("update")
    made = program(trial, [before, item(trial), *around, after], plain=True)
    metrics = run(trial, made, 1, dtype=torch.float64)[0]
    return before.seen[-1], after.seen[-1], metrics


def _oracle(trial: Trial, *, plain: bool = True) -> dict[str, Tensor]:
    """The gradient of the mean loss over the batch, by a program without middleware."""
    sees = Sees("update")
    run(trial, program(trial, [sees], plain=plain), 1, dtype=torch.float64 if plain else torch.float32)
    return sees.seen[-1]


def _norm(trial: Trial, metrics: Metrics, name: str, oracle: dict[str, Tensor], allowed: float) -> None:
    trial.demand(name in metrics, f"it gives no metric {name!r}; there are {', '.join(metrics)}")
    true = float(torch.sqrt(torch.stack([(g.double() ** 2).sum() for g in oracle.values()]).sum()))
    value = metrics[name]
    seen = float(value[0] / value[1]) if isinstance(value, tuple) else float(value)
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
    satisfy="Keep in state_dict() all that the next step depends on, and put it back in load_state_dict().",
    catches=("averages that start afresh", "a loss scale that starts again", "a counter of updates that is lost"),
)
def resume(trial: Trial) -> None:
    """From the state of any step a fresh program goes on with the bits of an uninterrupted one, its own state included."""
    last = 5
    whole = program(trial, [item(trial)])
    saved = [_tree(whole)]
    for step in range(last):
        run(trial, whole, step + 1)
        with trial.component("its state_dict"):
            saved.append(_tree(whole))
    lent = _lent(whole)
    for cut in range(last):
        with trial.case(saved_at=cut, steps=last):
            made = program(trial, [item(trial)])
            if cut == 2:
                run(trial, made, 1)  # what it holds of its own must not stay
            _restored(trial, made, saved[cut])
            same(trial, "the state right after a restore", _tree(made), saved[cut])
            run(trial, made, last)
            same(trial, "the state at the end", _tree(made), saved[last], cause="state that no state_dict holds")
            same(trial, "the weights that are lent at the end", _lent(made), lent, cause="state that no state_dict holds")
    trial.control("a cold start differs", differs(saved[0], saved[last]))
    for name, own in saved[3]["middleware"].items():
        if leaves(own) and any(k for k in leaves(own) if k != "output"):
            made = program(trial, [item(trial)])
            fresh = _tree(made)["middleware"][name]
            _restored(trial, made, {**saved[3], "middleware": {**saved[3]["middleware"], name: fresh}})
            run(trial, made, last)
            trial.control(f"without the state of {name} it differs", differs(_tree(made), saved[last]))


def _tree(made: Program) -> dict[str, Any]:
    return copy.deepcopy(made.state_tree())


def _lent(made: Program) -> dict[str, Tensor]:
    """The weights that an evaluation would use."""
    with made.evaluating() as state:
        return {n: p.detach().clone() for n, p in state.model.named_parameters()}


def _restored(trial: Trial, made: Program, tree: dict[str, Any]) -> None:
    with trial.component("restoring its state"):
        made.restore(copy.deepcopy(tree))
