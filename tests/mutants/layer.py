"""Layers with a planted bug, and their correct twins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mapsto.core.laws import Example

from . import Mutant

VECTORS = Example(inputs=lambda size, generator: (torch.randn(size, 4, generator=generator),))


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * 2 * x


class _SquareForgets(_Square):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Square.apply(x)


class SquareForgets(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _SquareForgets.apply(x)


MUTANTS = [
    Mutant(
        law="layer.gradients",
        name="backward forgets a factor of two",
        bug=SquareForgets,
        twin=Square,
        models="hand-written autograd.Function",
        example=VECTORS,
    ),
]
