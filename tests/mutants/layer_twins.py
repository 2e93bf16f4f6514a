"""Layers of forms that were once called broken and are right, each beside a bug of the same form."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mapsto.core.laws import Example

from . import Mutant

WIDTH, TIME = 8, 5


def _vectors(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, WIDTH, generator=generator),)


def _sequences(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, TIME, WIDTH, generator=generator),)


def _ids(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randint(16, (size, TIME), generator=generator),)


VECTORS, SEQUENCES, IDS = Example(inputs=_vectors), Example(inputs=_sequences), Example(inputs=_ids)


# -- weights that are folded for evaluation ------------------------------------------------------------------------------
class Folds(nn.Module):
    """A low-rank update that eval() adds to the frozen weight and train() takes out again (Hu et al. 2021)."""

    scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / 3, requires_grad=False)
        self.down = nn.Parameter(torch.randn(2, WIDTH) / 3)
        self.up = nn.Parameter(torch.randn(WIDTH, 2) / 3)
        self.folded = False

    def train(self, mode: bool = True) -> Folds:
        super().train(mode)
        if mode == self.folded:
            self.fold(mode)
        return self

    def fold(self, mode: bool) -> None:
        self.weight.data += (-1 if mode else self.scale) * self.up.data @ self.down.data
        self.folded = not mode

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self.weight)
        return y if self.folded else y + functional.linear(functional.linear(x, self.down), self.up)


class FoldsALittleMore(Folds):
    scale = 1.0001


class NeverUnfolds(Folds):
    def fold(self, mode: bool) -> None:
        if not mode:
            super().fold(mode)
        self.folded = not mode


class DrawsAnew(Folds):
    def __init__(self) -> None:
        super().__init__()
        self.down.data += 1e-3 * float(np.random.default_rng().standard_normal())


# -- ties --------------------------------------------------------------------------------------------------------------
class Tied(nn.Module):
    """Scores of words by the table that embeds them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, WIDTH)
        self.head = nn.Linear(WIDTH, 16, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


class TiedAndScaled(Tied):
    """With a scale that is in no state_dict and that nothing computes again."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * self.scale


# -- results that are objects --------------------------------------------------------------------------------------------
class Scores:
    """A result of a class of one's own, without equality, that computes on demand."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean
        self.later = lambda: mean.exp()


class Scorer(nn.Module):
    """[n, d] -> an object that holds a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Scores:
        return Scores(self.linear(x))


class NoisyScorer(Scorer):
    def forward(self, x: Tensor) -> Scores:
        return Scores(self.linear(x) + float(np.random.default_rng().standard_normal()))


# -- caches ------------------------------------------------------------------------------------------------------------
def _positions(time: int, like: Tensor) -> Tensor:
    rates = torch.exp(torch.arange(0, WIDTH, 2, dtype=like.dtype) * (-math.log(1e4) / WIDTH))
    angles = torch.arange(time, dtype=like.dtype)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class CachesPositions(nn.Module):
    """Adds positions that it computes for the longest sequence so far, kept in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None or len(self.kept) < x.shape[1] or self.kept.dtype != x.dtype:
            self.kept = _positions(x.shape[1], x)
        return x + self.kept[: x.shape[1]]


class CountsCalls(CachesPositions):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def forward(self, x: Tensor) -> Tensor:
        self.number += 1
        return super().forward(x) * (1 + 1e-3 * self.number)


class CachesMask(nn.Module):
    """Causal averages, whose mask is made at the first call and kept in a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None or len(self.mask) < x.shape[1]:
            self.mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        weights = self.mask[: x.shape[1], : x.shape[1]].to(x.dtype)
        return (weights / weights.sum(-1, keepdim=True)) @ x


class CountsInBuffer(CachesMask):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


# -- tables ------------------------------------------------------------------------------------------------------------
class Table(nn.Module):
    """Positions -> rows of a table that is saved and never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", _positions(16, torch.zeros(())))

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids]


_calls = itertools.count()


class TableByChance(nn.Module):
    """A table that each instance draws for itself and does not save."""

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(next(_calls))
        self.register_buffer("table", torch.randn(16, WIDTH, generator=drawn), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids]


class Invariant(nn.Module):
    """Cosines to directions: the scale of its weights does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(3, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1) @ functional.normalize(self.directions, dim=-1).T


class InvariantShares(Invariant):
    """Its copy shares the directions with it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> InvariantShares:
        other = InvariantShares()
        other.directions = self.directions
        return other


MUTANTS = [
    Mutant(law="layer.modes", name="folds a ten-thousandth too much", bug=FoldsALittleMore, twin=Folds, models="a merge that "
           "scales otherwise", example=VECTORS, status="unknown"),
    Mutant(law="layer.rerun", name="adapters from another stream", bug=DrawsAnew, twin=Folds, models="numpy in an initialiser",
           example=VECTORS),
    Mutant(law="export.evaluation_and_original", name="train() does not unfold", bug=NeverUnfolds, twin=Folds,
           models="adapters that are counted twice", example=VECTORS, kind="layer"),
    Mutant(law="layer.meta_init", name="a scale beside tied weights that nothing fills", bug=TiedAndScaled, twin=Tied,
           models="transformers#45902", example=IDS),
    Mutant(law="layer.rerun", name="noise within an object that is returned", bug=NoisyScorer, twin=Scorer,
           models="results compared by their address", example=VECTORS),
    Mutant(law="layer.one_graph", name="a counter beside a cache", bug=CountsCalls, twin=CachesPositions,
           models="a counter that recompiles", example=SEQUENCES),
    Mutant(law="layer.purity", name="a counter in a buffer beside a cache", bug=CountsInBuffer, twin=CachesMask,
           models="statistics in evaluation", example=SEQUENCES),
    Mutant(law="layer.meta_init", name="a buffer beside a cache that nothing fills", bug=CountsInBuffer, twin=CachesMask,
           models="transformers#45902", example=SEQUENCES),
    Mutant(law="layer.state", name="a table that is drawn and not saved", bug=TableByChance, twin=Table,
           models="a random projection that is not a buffer", example=IDS),
    Mutant(law="layer.copies", name="a copy that shares its directions", bug=InvariantShares, twin=Invariant,
           models="a copy by reference", example=VECTORS),
]  # fmt: skip
