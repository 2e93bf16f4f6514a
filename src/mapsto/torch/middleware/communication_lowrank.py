"""Gradients that travel between replicas as products of two thin matrices (PowerSGD)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...core.compose import middleware
from ...core.doors import typed
from ...core.errors import CheckpointError
from ...core.per_rank import PerRank
from ...core.random import derive
from ...core.ranges import Count, NonNegative
from ..mappings import Batch, Grad, Metrics
from ..mesh.one import local
from ..state import Builder, State
from .communication_local import summed


@dataclass
class _Matrix:
    """A parameter whose gradient, as [rows, columns], is compressed: its right factor [columns, rank], kept from step to
    step, and what this rank has not yet sent, in the unit of a mean gradient."""

    name: str
    parameter: Tensor
    right: Tensor
    error: Tensor


@middleware("powersgd", provides="replica_exchange", before="mesh", after=("nonfinite", "mixed_precision", "sam"))
class PowerSGD:
    """grad -> grad whose matrices are summed over replicas in `rank` dimensions (PowerSGD; Vogels et al. 2019).

    Of a matrix M_r [n, m] of each replica r (the first axis by the others, its share of the mean gradient and what it
    has not sent yet) travel P = sum_r M_r Q [n, rank] and, with P's columns made orthonormal, Q = sum_r M_r' P; the gradient is
    P Q', on all replicas the same, and M_r - P (M_r' P)' is kept for the next step, so that nothing is lost over time. Q starts
    each step where the last one ended. Other parameters, and matrices for which (n + m) rank min_compression_rate is
    above n m, travel as they are, in one all-reduce after backward; a rank of full size is therefore no change. A parameter
    without a gradient counts as zero. Gradients that are not finite reach all replicas and leave what is kept as it was.
    Works on mesh.replicate, whole or in shards; one process has nothing to send. On another number of ranks than a
    checkpoint's, what was kept starts afresh. Raises SpecError.
    """

    edits_gradients = True

    @typed
    def __init__(self, rank: Count = 4, *, min_compression_rate: NonNegative = 2.0) -> None:
        self.rank, self.min_compression_rate = rank, min_compression_rate

    def setup(self, builder: Builder) -> None:
        builder.local_updates = "powersgd"

    def begin(self, state: State) -> None:
        self.state = state

    @property
    def replicas(self) -> dist.ProcessGroup | None:
        """The ranks that hold the same of other replicas; None for one."""
        found: dist.ProcessGroup | None = self.state.mesh.replicas
        return found

    @functools.cached_property
    def matrices(self) -> list[_Matrix]:
        """The parameters that are compressed: none where there is one replica."""
        named = [] if self.replicas is None else zip(self.state.names, self.state.parameters, strict=True)
        found = (self._matrix(name, parameter) for name, parameter in named)
        return [matrix for matrix in found if matrix is not None]

    def _matrix(self, name: str, parameter: Tensor) -> _Matrix | None:
        here = local(parameter.detach())
        rows, columns = _shape(here)
        rank = min(self.rank, rows, columns)
        if here.dim() < 2 or rank == 0 or not here.is_floating_point():
            return None
        if (rows + columns) * rank * self.min_compression_rate > rows * columns:
            return None
        generator = torch.Generator().manual_seed(derive(self.state.seed, "powersgd", name))
        dtype = torch.promote_types(here.dtype, torch.float32)
        right = torch.randn(columns, rank, generator=generator, dtype=torch.float64).to(here.device, dtype)
        return _Matrix(name, parameter, right, here.new_zeros(rows, columns, dtype=dtype))

    @functools.cached_property
    def others(self) -> list[Tensor]:
        """The parameters that are not factorised, whose gradients are averaged as they are."""
        thin = {id(m.parameter) for m in self.matrices}
        return [p for p in self.state.parameters if id(p) not in thin]

    def grad(self, inner: Grad) -> Grad:
        def compressed(state: State, batch: Batch) -> Metrics:
            own: Metrics = inner(state, batch)
            if self.replicas is None:
                return own
            metrics: Metrics = state.mesh.together([own])
            total = metrics["loss"][1]
            one = torch.ones_like(total)
            share = one if state.summing else torch.where(total > 0, own["loss"][1] / total, one)
            self._sum(share, torch.where(total > 0, total, one) if state.summing else one)
            return metrics

        return compressed

    @torch.no_grad()
    def _sum(self, share: Tensor, weight: Tensor) -> None:
        """Leave in every gradient the sum over replicas of theirs times their share. weight: of which a mean is one part."""
        assert self.replicas is not None
        one = torch.ones_like(share)
        for parameter, value in zip(
            self.others, summed([_gradient(p) for p in self.others], share, self.replicas), strict=True
        ):
            _put(parameter, value)
        if not self.matrices:
            return
        held = [_gradient(m.parameter).reshape(m.error.shape) * (share / weight).to(m.error) for m in self.matrices]
        held = [gradient.add_(m.error) for gradient, m in zip(held, self.matrices, strict=True)]
        lefts = summed([h @ m.right for h, m in zip(held, self.matrices, strict=True)], one, self.replicas)
        lefts = [torch.linalg.qr(left)[0] for left in lefts]
        owns = [h.T @ left for h, left in zip(held, lefts, strict=True)]
        rights = summed(owns, one, self.replicas)
        for m, gradient, left, own, right in zip(self.matrices, held, lefts, owns, rights, strict=True):
            good = torch.isfinite(right.sum())  # the same on all replicas
            m.error = torch.where(good, gradient - left @ own.T, m.error)
            m.right = torch.where(good, right, m.right)
            _put(m.parameter, (left @ right.T).mul_(weight.to(right)))

    # -- state -------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """What each rank has not sent, and the right factors; nothing where there is one replica."""
        return {m.name: {"right": PerRank(m.right, afresh=True), "error": PerRank(m.error, afresh=True)} for m in self.matrices}

    def load_state_dict(self, tree: Mapping[str, Any]) -> None:
        for m in self.matrices:
            kept: Mapping[str, PerRank] = tree.get(m.name, {})
            for name in kept:
                value, here = kept[name].value, getattr(m, name)
                if value is not None and value.shape != here.shape:
                    raise CheckpointError(
                        f"powersgd: {name} of {m.name} is {list(value.shape)} in the checkpoint, {list(here.shape)} here"
                    )
                if value is not None:
                    here.copy_(value)


def _shape(tensor: Tensor) -> tuple[int, int]:
    rows = tensor.shape[0] if tensor.dim() else 1
    return rows, tensor.numel() // rows if rows else 0


def _gradient(parameter: Tensor) -> Tensor:
    """The gradient, of it the part that is here; zero where there is none."""
    if parameter.grad is None:
        return torch.zeros_like(local(parameter.detach()))
    return local(parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad)


def _put(parameter: Tensor, value: Tensor) -> None:
    """The gradient, of it the part that is here, becomes the value."""
    if parameter.grad is None or parameter.grad.is_sparse:
        parameter.grad = torch.zeros_like(parameter)
    gradient = local(parameter.grad)
    gradient.copy_(value.view(gradient.shape))
