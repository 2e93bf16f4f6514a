"""Mappings that were changed after their values were recorded, in `goldens/` beside this file.

Recorded by `mapsto check tests.mutants.golden:Pooled tests.mutants.golden:hinge tests.mutants.golden:words --record`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import mapsto

from . import Mutant


class Pooled(nn.Module):
    """A projection and the mean of its absolute values; [n, 6, 4] -> [n, 3]."""

    scale = 0.2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3) * self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool((x @ self.weight).abs())

    def pool(self, x: Tensor) -> Tensor:
        return x.mean(1)


class PooledByMax(Pooled):
    """Another default of pooling, as between two releases of a library."""

    def pool(self, x: Tensor) -> Tensor:
        return x.amax(1)


class PooledOtherwiseBegun(Pooled):
    """Another initialisation (transformers#40796, in spirit): outputs of trained weights are as they were."""

    scale = 0.4


class PooledWithBuffer(Pooled):
    """State that was not there: checkpoints from before no longer load."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))


def hinge(prediction: Tensor, target: Tensor, margin: float = 1.0) -> Tensor:
    """Unreduced."""
    return (margin - prediction * (2 * target - 1)).clamp(min=0)


def hinge_of_half(prediction: Tensor, target: Tensor, margin: float = 0.5) -> Tensor:
    """Another default of the margin."""
    return hinge(prediction, target, margin)


def hinge_squared(prediction: Tensor, target: Tensor, margin: float = 1.0) -> Tensor:
    """Another norm."""
    return hinge(prediction, target, margin).square()


def hinge_averaged(prediction: Tensor, target: Tensor, margin: float = 1.0) -> Tensor:
    """Another reduction."""
    return hinge(prediction, target, margin).mean()


def words(batch: Any) -> Any:
    """Texts as words in small letters."""
    return {**batch, "input": [t.lower().split() for t in batch["input"]]}


def words_with_case(batch: Any) -> Any:
    """Capitals are kept."""
    return {**batch, "input": [t.split() for t in batch["input"]]}


def words_with_points(batch: Any) -> Any:
    """Points are words of their own."""
    return {**batch, "input": [t.lower().replace(".", " .").split() for t in batch["input"]]}


def words_by_blank(batch: Any) -> Any:
    """Two blanks have an empty word between them."""
    return {**batch, "input": [t.lower().split(" ") for t in batch["input"]]}


def _coins(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 4, generator=generator), torch.randint(2, (size, 4), generator=generator).float()


def _sequences(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 6, 4, generator=generator),)


def _texts(size: int, rng: Any) -> Any:
    return ({"input": ["The Cat  sat.", "A dog", "No. Never."][:size] * -(-size // 3), "target": rng.integers(0, 2, size)},)


def _mutants(twin: Any, kind: str, models: str, inputs: Any, *bugs: Any) -> list[Mutant]:
    golden = f"goldens/{twin.__name__}.{kind}.npz"
    for target in (twin, *bugs):
        mapsto.example(target, inputs=inputs, golden=golden)
    return [Mutant(law=f"{kind}.golden", name=bug.__name__, bug=bug, twin=twin, models=models) for bug in bugs]


MUTANTS = [
    *_mutants(Pooled, "layer", "a release", _sequences, PooledByMax, PooledOtherwiseBegun, PooledWithBuffer),
    *_mutants(hinge, "loss", "a release", _coins, hinge_of_half, hinge_squared, hinge_averaged),
    *_mutants(words, "transform", "a release", _texts, words_with_case, words_with_points, words_by_blank),
]
