"""Layers whose noise is drawn, but wrongly: one draw for all records, or with another mean than evaluation has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto.core.laws import Example

from . import Mutant


class Dropping(nn.Module):
    """Dropout (Srivastava et al. 2014) of a linear map, scaled in training."""

    rate = 0.3

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def drop(self, h: Tensor) -> Tensor:
        return h * torch.empty_like(h).bernoulli_(1 - self.rate) / (1 - self.rate)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return self.drop(h) if self.training else h


class DroppingTogether(Dropping):
    """One mask for all records (keras#217)."""

    def drop(self, h: Tensor) -> Tensor:
        return h * torch.empty_like(h[:1]).bernoulli_(1 - self.rate) / (1 - self.rate)


class DroppingUnscaled(Dropping):
    """What is kept is not scaled up (py-faster-rcnn#211)."""

    def drop(self, h: Tensor) -> Tensor:
        return h * torch.empty_like(h).bernoulli_(1 - self.rate)


class DroppingScaledByRate(Dropping):
    """What is kept is divided by the rate of what is dropped (theanets#123)."""

    def drop(self, h: Tensor) -> Tensor:
        return h * torch.empty_like(h).bernoulli_(1 - self.rate) / self.rate


class Path(Dropping):
    """Stochastic depth (Huang et al. 2016): the branch of a record is left out, others are scaled."""

    def drop(self, h: Tensor) -> Tensor:
        kept = torch.rand(len(h), *[1] * (h.dim() - 1), dtype=h.dtype) >= self.rate
        return h * kept / (1 - self.rate)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x).tanh()
        return x + (self.drop(h) if self.training else h)


class PathOfBatch(Path):
    """The branch is left out for the whole batch (pytorch-image-models#2118)."""

    def drop(self, h: Tensor) -> Tensor:
        return h * (torch.rand((), dtype=h.dtype) >= self.rate) / (1 - self.rate)


class PathUnscaled(Path):
    """The branches that are kept are not scaled (img_classification_pk_pytorch#9)."""

    def drop(self, h: Tensor) -> Tensor:
        return super().drop(h) * (1 - self.rate)


class Between(nn.Module):
    """Dropout between two linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 12), nn.Linear(12, 6)

    def drop(self, h: Tensor) -> Tensor:
        return F.dropout(h, 0.3, self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.drop(self.inner(x)))


class BetweenUnscaled(Between):
    """Dropout between two linear maps, not scaled (py-faster-rcnn#211)."""

    def drop(self, h: Tensor) -> Tensor:
        return F.dropout(h, 0.3, self.training) * (0.7 if self.training else 1.0)


class Bent(Dropping):
    """A nonlinear function of what dropout leaves, whose mean is not that of evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(super().forward(x)) + F.gelu(-super().forward(x))


class BentTogether(DroppingTogether, Bent):
    """One mask for all records before a nonlinear function (keras#217)."""


class Weighted(nn.Module):
    """DropConnect (Wan et al. 2013): one draw of weights for the whole batch, as weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.dropout(self.inner.weight, 0.3, self.training), self.inner.bias)


class WeightedAndTogether(Weighted):
    """A mask of outputs where a mask of weights was meant."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return h * F.dropout(torch.ones_like(h[:1]), 0.3, self.training)


def _vectors(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 6, generator=generator),)


def _mutant(bug: Any, twin: Any) -> Mutant:
    models = (bug.__doc__ or "").splitlines()[0]
    example = Example(inputs=_vectors, tags=frozenset({"mode_dependent"}))
    return Mutant(law="layer.fresh_noise", name=bug.__name__, bug=bug, twin=twin, models=models, example=example)


MUTANTS = [
    _mutant(DroppingTogether, Dropping),
    _mutant(DroppingUnscaled, Dropping),
    _mutant(DroppingScaledByRate, Dropping),
    _mutant(PathOfBatch, Path),
    _mutant(PathUnscaled, Path),
    _mutant(BetweenUnscaled, Between),
    _mutant(BentTogether, Bent),
    _mutant(WeightedAndTogether, Weighted),
]
