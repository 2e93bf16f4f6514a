"""Sharpness-aware minimisation."""

from __future__ import annotations

import torch

from ...core.compose import middleware
from ...core.doors import typed
from ...core.ranges import NonNegative
from ..mappings import Batch, Grad, Metrics
from ..mesh.one import local
from ..state import State
from .copies import kept


@middleware("sam", provides="sharpness", before=("mesh", "accumulate"))
class SAM:
    """grad -> grad at the weights moved by rho in the direction of steepest ascent (Foret et al. 2021); two passes a step.

    w' = w + rho g / ||g||; adaptive (ASAM, Kwon et al. 2021): w' = w + rho T^2 g / ||T g|| with T = |w| + eta.
    Both passes draw the same dropout; the weights are put back bitwise, and buffers (batch statistics) keep what the first
    pass made of them. The ascent follows the gradient of the whole batch, micro-batches included. Metrics are those of the
    first pass. `rho` 0 is no perturbation. Raises SpecError.
    """

    @typed
    def __init__(self, rho: NonNegative = 0.05, *, adaptive: bool = False, eta: NonNegative = 0.01) -> None:
        self.rho, self.adaptive, self.eta = rho, adaptive, eta

    def grad(self, inner: Grad) -> Grad:
        if self.rho == 0:
            return inner

        def perturbed(state: State, batch: Batch) -> Metrics:
            with state.isolated_gradients():
                metrics = inner(state, batch)
                with kept([*state.parameters, *state.model.buffers()]):
                    self._ascend(state)
                    state.clear()
                    inner(state, batch)
            return metrics

        return perturbed

    @torch.no_grad()
    def _ascend(self, state: State) -> None:
        moved = [p for p in state.parameters if p.grad is not None]
        directions = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in moved if p.grad is not None]
        if not moved:
            return
        if self.adaptive:
            scales = [p.abs().add_(self.eta) for p in moved]
            directions = [d * s for d, s in zip(directions, scales, strict=True)]
        norm = state.mesh.norm(directions)
        if self.adaptive:
            directions = [d * s for d, s in zip(directions, scales, strict=True)]
        factor = self.rho / (norm + 1e-12)
        for parameter, direction in zip(moved, directions, strict=True):
            local(parameter).add_(local(direction) * factor)
