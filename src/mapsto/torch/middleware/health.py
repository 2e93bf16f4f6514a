"""How far each parameter moves: the length of its update over its own."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.compose import middleware
from ...core.doors import typed
from ...core.ranges import Whole
from ..mappings import Metrics, Update
from ..state import State


@middleware("health")
class Health:
    """update -> update with metrics of every trained parameter, at every `every`-th step.

    `update_ratio/NAME`: the length of the step's update over the larger of the weights' before and after it (around 1e-3 is
    usual; 0 changes nothing, 1 replaces them); `gradient_norm/NAME`: the length of the gradient as the optimizer was given
    it. `mapsto doctor` looks at them. A sampled step holds a copy of the trained weights and, where ranks hold parts of
    them, exchanges three numbers a parameter; the others are not touched. `every` 0 measures nothing. Raises SpecError.
    """

    @typed
    def __init__(self, every: Whole = 50) -> None:
        self.every = every

    def update(self, inner: Update) -> Update:
        if self.every == 0:
            return inner

        def watched(state: State, metrics: Metrics) -> Metrics:
            if state.step % self.every:
                return inner(state, metrics)
            before = [p.detach().clone() for p in state.parameters]
            metrics = inner(state, metrics)
            return {**metrics, **measured(state, before)}

        return watched


@torch.no_grad()
def measured(state: State, before: list[Tensor]) -> Metrics:
    """The metrics of an update, given the weights before it; scalars on the device, of the parameters of all ranks."""
    found: Metrics = {}
    norms, now = state.mesh.norms, [p.detach() for p in state.parameters]
    moved = norms([new - old for new, old in zip(now, before, strict=True)])
    for name, was, is_, far in zip(state.names, norms(before), norms(now), moved, strict=True):
        length = torch.maximum(was, is_)
        found[f"update_ratio/{name}"] = torch.where(length > 0, far / length, 0.0)
    held = {n: p.grad for n, p in zip(state.names, state.parameters, strict=True) if p.grad is not None}
    gradients = [g.coalesce().values() if g.is_sparse else g for g in held.values()]
    found |= {f"gradient_norm/{name}": length for name, length in zip(held, norms(gradients), strict=True)}
    return state.mesh.gathered(found)
