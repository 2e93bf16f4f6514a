"""Noise on gradients."""

from __future__ import annotations

import math

import torch

from ...core.compose import middleware
from ...core.doors import typed
from ...core.ranges import NonNegative
from ..mappings import Metrics, Update
from ..mesh.one import cut, local
from ..state import State
from .gradients import dense


@middleware("gradient_noise")
class GradientNoise:
    """update -> update on gradients with Gaussian noise of variance eta / (1 + t)^gamma at step t (Neelakantan et al. 2015).

    Drawn from the stream `gradient_noise` of (seed, step); a sparse gradient gets it in the rows it has. `eta` 0 adds
    nothing. Raises SpecError.
    """

    edits_gradients = True

    @typed
    def __init__(self, eta: NonNegative, gamma: float = 0.55) -> None:
        self.eta, self.gamma = eta, gamma

    def update(self, inner: Update) -> Update:
        if self.eta == 0:
            return inner

        def noisy(state: State, metrics: Metrics) -> Metrics:
            deviation = math.sqrt(self.eta / (1 + state.step) ** self.gamma)
            generator = state.generator("gradient_noise")
            for gradient in dense(state.parameters):
                drawn = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype, device=gradient.device)
                local(gradient).add_(cut(drawn, gradient), alpha=deviation)
            return inner(state, metrics)

        return noisy
