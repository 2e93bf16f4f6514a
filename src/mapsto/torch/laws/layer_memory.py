"""Laws of what a layer leaves behind: memory stays flat from step to step."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import Tensor, nn

from ...core.garbage import only_new_garbage
from ...core.laws import Laws, Trial
from ..drivers.layer_examples import build, inputs, settle
from ..drivers.layer_passes import cotangents, differentiable, with_gradient

laws = Laws("layer", "model")


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
