"""Layers that hold modules where PyTorch does not look, and their right twins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mapsto.core.laws import Example

from . import Mutant


class Stacked(nn.Module):
    """Blocks one after the other, beside a plain list of activations, which have nothing to register."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: Any = self.held([self.block() for _ in range(2)])
        self.bends = [nn.Tanh(), nn.GELU()]

    def block(self) -> nn.Module:
        return nn.Linear(4, 4)

    def held(self, blocks: list[nn.Module]) -> Any:
        return nn.ModuleList(blocks)

    def each(self) -> Any:
        return self.blocks

    def forward(self, x: Tensor) -> Tensor:
        for block, bend in zip(self.each(), self.bends, strict=True):
            x = bend(block(x))
        return x


class StackedInList(Stacked):
    """Blocks in a plain list (pytorch#59925)."""

    def held(self, blocks: list[nn.Module]) -> Any:
        return blocks


class StackedInDict(Stacked):
    """Blocks in a plain dict (pytorch#632)."""

    def held(self, blocks: list[nn.Module]) -> Any:
        return dict(enumerate(blocks))

    def each(self) -> Any:
        return self.blocks.values()


class Dropped(Stacked):
    """Dropout after dropout."""

    def block(self) -> nn.Module:
        return nn.Dropout(0.3)


class DroppedInList(StackedInList, Dropped):
    """Dropout in a plain list, which eval() does not reach (pytorch#59925)."""


class Counted(nn.Module):
    """Batch statistics without weights."""

    def block(self) -> nn.Module:
        return nn.BatchNorm1d(4, affine=False)


class CountedRight(Counted, Stacked):
    """Registered."""


class CountedInList(Counted, StackedInList):
    """Batch statistics in a plain list: neither saved nor fixed by eval() (pytorch#1053)."""


def _vectors(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 4, generator=generator),)


def _mutant(bug: Any, twin: Any) -> Mutant:
    models = (bug.__doc__ or "").splitlines()[0]
    return Mutant(law="layer.state", name=bug.__name__, bug=bug, twin=twin, models=models, example=Example(inputs=_vectors))


MUTANTS = [
    _mutant(StackedInList, Stacked),
    _mutant(StackedInDict, Stacked),
    _mutant(DroppedInList, Dropped),
    _mutant(CountedInList, CountedRight),
]
