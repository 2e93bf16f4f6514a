"""Layers and losses that are wrong in half precision alone, and their right twins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto.core.laws import Example

from . import Mutant


class Projected(nn.Module):
    """A linear map, whose result autocast gives in half precision, and what `after` makes of it."""

    bias = True

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8, bias=self.bias)

    def after(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(x))


class RootMeanSquare(Projected):
    """Divided by the root of the mean of squares (Zhang and Sennrich 2019), squared in float32."""

    def wide(self, h: Tensor) -> Tensor:
        return h if h.dtype is torch.float64 else h.float()

    def after(self, h: Tensor) -> Tensor:
        y = self.wide(h)
        return (y * ((y * y).mean(-1, keepdim=True) + 1e-5).rsqrt()).to(h.dtype)


class RootMeanSquareNarrow(RootMeanSquare):
    """Squared in the dtype of the activations (pytorch#133085)."""

    def wide(self, h: Tensor) -> Tensor:
        return h


class Alone(RootMeanSquare):
    """The norm by itself."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x)


class AloneNarrow(Alone, RootMeanSquareNarrow):
    """The norm by itself, of activations that arrive in half precision (pytorch#133085)."""


class LogSigmoid(Projected):
    """The log of a sigmoid, with its large numbers taken off first."""

    def after(self, h: Tensor) -> Tensor:
        return F.logsigmoid(h)


class LogOfSigmoid(Projected):
    """The log of a sigmoid that float16 rounds to zero (onnxruntime#14784)."""

    def after(self, h: Tensor) -> Tensor:
        return h.sigmoid().log()


class UnitSize(Projected):
    """Divided by its largest number, where that is not zero."""

    bias, least = False, 1e-3

    def after(self, h: Tensor) -> Tensor:
        return h / h.abs().amax(-1, keepdim=True).clamp(min=self.least)


class UnitSizeOfNothing(UnitSize):
    """An epsilon that is no number of float16 keeps nothing from zero (kornia#4021, pylate#239)."""

    least = 1e-12


class Spread(Projected):
    """The variance of what a map with a large offset gives, less its mean before it is squared."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.inner.bias, 20.0)

    def after(self, h: Tensor) -> Tensor:
        return (h - h.mean(-1, keepdim=True)).square().mean(-1)


class SpreadCancels(Spread):
    """The mean of squares less the square of the mean, in half precision (pytorch#189581)."""

    def after(self, h: Tensor) -> Tensor:
        return h.square().mean(-1) - h.mean(-1).square()


class Softened(Projected):
    """A smooth rectifier, as the framework computes it."""

    def after(self, h: Tensor) -> Tensor:
        return F.softplus(h)


class SoftenedByExp(Projected):
    """log(1 + exp(h)), whose exponential is infinite in float16 from 12 on."""

    def after(self, h: Tensor) -> Tensor:
        return (1 + h.exp()).log()


def binary(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return F.binary_cross_entropy_with_logits(prediction.float(), target, reduction="sum"), target.numel()


def binary_in_half(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """Logs of sigmoids of logits in half precision (onnxruntime#14784)."""
    p = prediction.sigmoid()
    return -(target * p.log() + (1 - target) * (1 - p).clamp(min=1e-7).log()).sum(), target.numel()


def contrast(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """One less the cosine of two vectors."""
    a, b = (x / x.norm(dim=-1, keepdim=True).clamp(min=1e-8) for x in (prediction.to(target.dtype), target))
    return (1 - (a * b).sum(-1)).sum(), len(target)


def contrast_in_half(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """Squares of predictions are summed in half precision (pytorch#133085)."""
    length = (prediction * prediction).sum(-1, keepdim=True).clamp(min=1e-8).sqrt()
    b = target / target.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    return (1 - (prediction / length * b).sum(-1)).sum(), len(target)


def _vectors(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 8, generator=generator),)


def _pairs(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return torch.randn(size, 8, generator=generator), torch.randn(size, 8, generator=generator)


def _coins(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return torch.randn(size, 3, generator=generator), torch.randint(2, (size, 3), generator=generator).float()


def _mutant(bug: Any, twin: Any, inputs: Any = _vectors, kind: str = "layer") -> Mutant:
    models = (bug.__doc__ or "").splitlines()[0]
    return Mutant(law=f"{kind}.autocast", name=bug.__name__, bug=bug, twin=twin, models=models, example=Example(inputs=inputs))


MUTANTS = [
    _mutant(RootMeanSquareNarrow, RootMeanSquare),
    _mutant(AloneNarrow, Alone),
    _mutant(LogOfSigmoid, LogSigmoid),
    _mutant(UnitSizeOfNothing, UnitSize),
    _mutant(SpreadCancels, Spread),
    _mutant(SoftenedByExp, Softened),
    _mutant(binary_in_half, binary, _coins, "loss"),
    _mutant(contrast_in_half, contrast, _pairs, "loss"),
]
