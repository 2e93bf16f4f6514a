"""Clipping: gradients of bounded size."""

from __future__ import annotations

import math

import torch

from ...core.compose import middleware
from ...core.doors import typed
from ...core.ranges import Positive
from ..mappings import Metrics, Update
from ..mesh.one import local
from ..state import State
from .gradients import dense, scale


@middleware("clip_norm")
class ClipNorm:
    """update -> update on gradients scaled down to a norm of at most `max_norm` over all parameters (Pascanu et al. 2013).

    The factor is max_norm / max(norm, max_norm), exactly 1 where nothing is to be clipped. A norm that is not finite
    clips nothing: NaN stays in the parameters where it arose instead of spreading to all (`nonfinite` looks before this).
    norm_type: p of the norm, `inf` for the largest element. Metric: `grad_norm`, before clipping, on the device.
    `max_norm` None or infinite is no clipping. Raises SpecError.
    """

    edits_gradients = True

    @typed
    def __init__(self, max_norm: Positive | None, norm_type: Positive = 2.0) -> None:
        self.max_norm, self.norm_type = max_norm, norm_type

    def update(self, inner: Update) -> Update:
        limit = self.max_norm
        if limit is None or math.isinf(limit):
            return inner

        def clipped(state: State, metrics: Metrics) -> Metrics:
            gradients = dense(state.parameters)
            if not gradients:
                return inner(state, metrics)
            norm = state.mesh.norm(gradients, self.norm_type)
            factor = torch.where(norm.isfinite(), limit / norm.clamp(min=limit), 1.0)
            scale(gradients, factor)
            return inner(state, {**metrics, "grad_norm": norm})

        return clipped


@middleware("clip_value")
class ClipValue:
    """update -> update on gradients whose elements are clamped to [-value, value]; NaN stays NaN.

    `value` None or infinite is no clipping. Raises SpecError.
    """

    edits_gradients = True

    @typed
    def __init__(self, value: Positive | None) -> None:
        self.value = value

    def update(self, inner: Update) -> Update:
        limit = self.value
        if limit is None or math.isinf(limit):
            return inner

        def clamped(state: State, metrics: Metrics) -> Metrics:
            if gradients := [local(g) for g in dense(state.parameters)]:
                torch._foreach_clamp_min_(gradients, -limit)
                torch._foreach_clamp_max_(gradients, limit)
            return inner(state, metrics)

        return clamped
