"""Laws of repetition: the same seed gives the same bits, modes differ where declared, and memory stays flat."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch
from torch import Tensor, nn

from ...core.laws import Laws, Trial
from ...core.random import derive
from .compare import differs, same
from .layer_examples import build, inputs, settle
from .layer_passes import cotangents, differentiable, observe, seen_by, with_gradient

laws = Laws("layer", "model")


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms on, and put back; the global streams of Python and NumPy too."""
    before, python, arrays = torch.are_deterministic_algorithms_enabled(), random.getstate(), numpy.random.get_state()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        random.setstate(python)
        numpy.random.set_state(arrays)


def disturb(number: int) -> None:
    """Move every stream that a seed of PyTorch does not reach."""
    random.seed(number)
    numpy.random.seed(number)


@laws.law(
    "L13",
    "rerun",
    priority=1,
    tolerance="T0",
    why="A result that a seed does not fix cannot be debugged, resumed or compared.",
    satisfy="Draw from PyTorch's generator alone, iterate over no sets, keep nothing from one call to the next.",
    catches=("noise from numpy.random", "weights drawn from Python's random", "a cache that the first call fills"),
)
def rerun(trial: Trial) -> None:
    """Under deterministic algorithms one seed gives one result, bit for bit: built again, run again, called again."""
    settle(trial)
    with deterministic():
        for training in (False, True):
            with trial.case(size=3, dtype="float32", mode="training" if training else "evaluation"):
                _twice(trial, training)


def _twice(trial: Trial, training: bool) -> None:
    given = inputs(trial, 3)
    disturb(1)
    first = build(trial).train(training)
    with trial.component("a pass under deterministic algorithms"):
        one = seen_by(trial, first, given)
    disturb(2)
    second = build(trial).train(training)
    disturb(3)
    same(trial, "parameters built from the same seed", dict(second.named_parameters()), dict(build(trial).named_parameters()),
         cause="weights drawn from a stream that torch.manual_seed does not set")  # fmt: skip
    disturb(4)
    two = seen_by(trial, second, given)
    cause = "numbers drawn from a stream that torch.manual_seed does not set"
    same(trial, "a second run from the same seed", two, one, cause=cause)
    if not training and not trial.has("stateful"):
        later = build(trial).eval()
        seen_by(trial, later, inputs(trial, 2, stream="others"))
        said = "something kept from the call before; if meant, tags={'stateful'}"
        same(trial, "a call after another one", seen_by(trial, later, given), one, cause=said)
        same(trial, "the same call again", seen_by(trial, later, given), one, cause=said)
    if trial.has("stochastic") and not training:
        other = seen_by(trial, build(trial).eval(), given, seed=derive(trial.seed, "another seed"))
        trial.demand(differs(other["output"], one["output"]), "it declares `stochastic`, and another seed gives the same",
                     cause="the seed is fixed inside, or nothing is drawn")  # fmt: skip
    if given:
        trial.control(
            "other inputs differ", differs(seen_by(trial, build(trial).train(training), inputs(trial, 3, stream="x")), one)
        )


# -- modes -------------------------------------------------------------------------------------------------------------
KNOWN = (
    nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d,
)  # fmt: skip
"""Layers whose training and evaluation differ by what they are; a layer that holds one needs no tag."""


@laws.law(
    "L13b",
    "modes",
    priority=1,
    tolerance="T0",
    why="A layer that is silently noisy in training, or whose dropout never drops, is trained as another one than "
    "was designed.",
    satisfy="State tags={'mode_dependent'} where training and evaluation differ on purpose.",
    catches=("dropout that is off in training", "a branch on self.training left from debugging"),
)
def modes(trial: Trial) -> None:
    """Training and evaluation give the same output, unless declared or known to differ; declared, they do differ."""
    settle(trial)
    module, given = build(trial), inputs(trial, 3)
    seed = derive(trial.seed, "modes")
    results = []
    for training in (True, False):
        with trial.component("calling it"):
            results.append(observe(build(trial).train(training), given, seed=seed, backward=False)["output"])
    apart = differs(*results)
    known = any(isinstance(m, KNOWN) or _drops(m) for m in module.modules())
    if trial.has("mode_dependent"):
        trial.demand(apart, "it declares `mode_dependent`, and training and evaluation give the same output",
                     measured="no difference", allowed="a difference",
                     cause="what should act in training does not")  # fmt: skip
    elif apart and not known and not trial.has("stochastic"):
        trial.undecided("training and evaluation give different outputs and nothing says so: state tags={'mode_dependent'} in "
                        "its mapsto.example if that is meant, and look for a branch on self.training if not")  # fmt: skip
    trial.exercised("outputs compared between modes", len(results[0]))


def _drops(module: nn.Module) -> bool:
    """Whether it is one of PyTorch's layers with a rate of dropout (attention, recurrent)."""
    rate = getattr(module, "dropout", 0.0)
    return isinstance(rate, (int, float)) and rate > 0 and type(module).__module__.startswith("torch.nn")


# -- memory ------------------------------------------------------------------------------------------------------------
STEPS, SETTLED = 20, 4


class _Saved:
    """A tensor that a graph saved for backward, so that one can see when it is let go."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@laws.law(
    "L14",
    "memory",
    priority=2,
    tolerance="T4",
    why="A graph that is kept from one step to the next is a run that ends out of memory, hours in.",
    satisfy="Detach what is kept (self.running = x.detach()), and keep no outputs in lists.",
    catches=("horovod#641", "a running mean that keeps its graph", "a list of losses"),
)
def memory(trial: Trial) -> None:
    """What 20 training steps leave behind does not grow, and what is saved for backward is within `saved_bytes`, if
    declared.
    """
    settle(trial)
    module = build(trial).train()
    counts: list[tuple[int, int]] = []
    largest = 0
    with only_new_garbage():
        alive: weakref.WeakSet[_Saved] = weakref.WeakSet()
        for step in range(STEPS):
            with trial.case(step=step), trial.component("a training step"):
                largest = max(largest, _step(trial, module, step, alive))
            gc.collect()
            counts.append((len(alive), sum(1 for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter))))
    _flat(trial, counts)
    if (budget := trial.example.more.get("saved_bytes")) is not None:
        trial.demand(largest <= int(budget), f"{largest} bytes are saved for backward of 2 records, and {budget} are declared",
                     measured=largest, allowed=int(budget),
                     cause="intermediate results that backward does not need")  # fmt: skip
    trial.exercised("steps", STEPS)


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """Within it, the collector sees only objects made since: the compiler alone holds millions."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _step(trial: Trial, module: nn.Module, step: int, alive: weakref.WeakSet[_Saved]) -> int:
    """A training step; the bytes that it saved for backward beside the parameters."""

    def pack(tensor: Tensor) -> _Saved:
        held = _Saved(tensor)
        alive.add(held)
        return held

    given, _ = differentiable(inputs(trial, 2, stream=f"step {step}"), tuple(trial.example.more.get("fixed", ())))
    given = tuple(x.clone() if trial.has("in_place") and isinstance(x, Tensor) else x for x in given)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        outputs = with_gradient(module(*given))
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    storages = {s.tensor.untyped_storage().data_ptr(): s.tensor.untyped_storage().nbytes() for s in alive
                if s.tensor.layout is torch.strided}  # fmt: skip
    if outputs:
        torch.autograd.backward(list(outputs.values()), cotangents(outputs, step))
    module.zero_grad(set_to_none=True)
    return sum(size for at, size in storages.items() if at not in weights)


def _flat(trial: Trial, counts: list[tuple[int, int]]) -> None:
    for number, what in enumerate(("tensors saved for backward", "tensors")):
        series = [c[number] for c in counts]
        grown = series[-1] - series[SETTLED]
        trial.demand(grown <= 0 or series[-1] == series[STEPS // 2],
                     f"{what} left after a step grew from {series[SETTLED]} at step {SETTLED} to {series[-1]} at {STEPS - 1}",
                     measured=f"{grown / (STEPS - 1 - SETTLED):.2g} a step", allowed="0 a step",
                     first={"step": next((i for i in range(SETTLED + 1, STEPS) if series[i] > series[SETTLED]), 0)},
                     cause="a graph or an output is kept from step to step")  # fmt: skip
