"""Layers that remember what they should not, and their right twins."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mapsto.core.laws import Example

from . import Mutant


class Merging(nn.Module):
    """A linear map and a correction of low rank (Hu et al. 2021), added up in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.down, self.up = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight(), self.inner.bias)

    def weight(self) -> Tensor:
        return self.inner.weight + self.up @ self.down


class MergingForGood(Merging):
    """Merges when it is evaluated, and never parts again."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            with torch.no_grad():
                self.inner.weight.add_(self.up @ self.down)
                self.up.zero_()
        return super().forward(x)


class Masked(nn.Module):
    """A causal mean; [n, t, d]."""

    def mask(self, t: int) -> Tensor:
        return torch.ones(t, t).tril()

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask(x.shape[0]).to(x.dtype)
        return torch.einsum("st,tnd->snd", mask / mask.sum(1, keepdim=True), x)


class MaskedGrown(Masked):
    """The mask of the longest call so far is cut at its wrong end."""

    kept: Tensor | None = None

    def mask(self, t: int) -> Tensor:
        if self.kept is None or len(self.kept) < t:
            self.kept = super().mask(t)
        return self.kept[-t:, -t:] if len(self.kept) == t else self.kept[-t:, :t]


class Positions(nn.Module):
    """A wave for each place in time, [n, t, d], kept for the longest record and for each dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[torch.dtype, Tensor] = {}

    def wave(self, x: Tensor) -> Tensor:
        kept = self.kept.get(x.dtype)
        if kept is None or len(kept) < x.shape[1]:
            kept = self.kept[x.dtype] = torch.arange(x.shape[1], dtype=x.dtype).mul(0.7).sin()[:, None]
        return kept[: x.shape[1]]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.wave(x)


class PositionsOfFirstLength(Positions):
    """A table as long as the first records, which a longer one runs out of (xformers#728)."""

    def wave(self, x: Tensor) -> Tensor:
        if not self.kept:
            super().wave(x)
        kept = self.kept[next(iter(self.kept))].to(x.dtype)
        return kept[torch.arange(x.shape[1]).clamp(max=len(kept) - 1)]


class PositionsOfFirstDtype(Positions):
    """A table in the dtype of the first call (transformers#25681)."""

    def wave(self, x: Tensor) -> Tensor:
        kept = next(iter(self.kept.values()), None)
        if kept is None or len(kept) < x.shape[1]:
            self.kept.clear()
            return super().wave(x)
        return kept[: x.shape[1]].to(x.dtype)


class PositionsStayWide(PositionsOfFirstDtype):
    """A table in float32 that makes what is added to it float32 too (transformers#24262)."""

    def wave(self, x: Tensor) -> Tensor:
        kept = next(iter(self.kept.values()), None)
        return super().wave(x) if kept is None else super().wave(x.to(kept.dtype))


class Causal(nn.Module):
    """Attention to what came before, [n, t, d], by a mask that is added in the dtype of the scores."""

    def mask(self, scores: Tensor) -> Tensor:
        return torch.full_like(scores[0], float("-inf")).triu(1)

    def forward(self, x: Tensor) -> Tensor:
        scores = x @ x.transpose(1, 2)
        return (scores + self.mask(scores)).softmax(-1) @ x


class CausalInFloat32(Causal):
    """The mask stays in float32 when the layer is converted (transformers#24262)."""

    def mask(self, scores: Tensor) -> Tensor:
        return super().mask(scores.to(torch.promote_types(scores.dtype, torch.float32)))


class Averaged(nn.Module):
    """The sum over time, [n, t, d], by the root of how many there are."""

    def length(self, x: Tensor) -> int:
        return x.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) / self.length(x) ** 0.5


class AveragedAsAtFirst(Averaged):
    """The length of the first records scales all that follow."""

    first = 0

    def length(self, x: Tensor) -> int:
        self.first = self.first or x.shape[1]
        return self.first


class Centred(nn.Module):
    """Less a running mean, which is kept in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean(0), 0.1)
        return x - self.mean


class CentredTogether(nn.Module):
    """The running mean is an attribute of the class: every instance moves it."""

    mean: ClassVar[list[Tensor]] = [torch.zeros(6)]

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean[0] = self.mean[0].lerp(x.detach().mean(0).float(), 0.1)
        return x - self.mean[0].to(x.dtype)


class Noisy(nn.Module):
    """Multiplicative noise in training."""

    def noise(self, x: Tensor) -> Tensor:
        return 1 + 0.3 * torch.randn_like(x)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.noise(x) if self.training else x


class NoisySeeded(Noisy):
    """Sets the seed itself, for reproducibility."""

    def noise(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return 1 + 0.3 * torch.randn(x.shape, generator=generator, dtype=x.dtype) + 0.0 * torch.rand_like(x)


class NoisyOnce(Noisy):
    """Draws when it is first called and keeps it."""

    kept: Tensor | None = None

    def noise(self, x: Tensor) -> Tensor:
        drawn = super().noise(x)
        if self.kept is None:
            self.kept = drawn
        return self.kept + 0.0 * drawn


class NoisyUnused(Noisy):
    """Draws, and uses another one."""

    def noise(self, x: Tensor) -> Tensor:
        super().noise(x)
        return torch.ones_like(x)


class Scaled(nn.Module):
    """Twice its input."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class ScaledSeedingNumPy(Scaled):
    """Sets NumPy's seed to 0, which a check with seed 0 has set before."""

    def forward(self, x: Tensor) -> Tensor:
        np.random.seed(0)
        return super().forward(x)


def _flat(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 6, generator=generator),)


def _times(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 2, 3, generator=generator),)


def _series(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 5, 3, generator=generator),)


def _mutant(law: str, bug: Any, twin: Any, inputs: Any = _flat, *tags: str) -> Mutant:
    models = (bug.__doc__ or "").splitlines()[0]
    example = Example(inputs=inputs, tags=frozenset(tags))
    return Mutant(law=f"layer.{law}", name=bug.__name__, bug=bug, twin=twin, models=models, example=example)


MUTANTS = [
    _mutant("purity", ScaledSeedingNumPy, Scaled),
    _mutant("history", MergingForGood, Merging),
    _mutant("history", CentredTogether, Centred),
    _mutant("history", MaskedGrown, Masked, _times),
    _mutant("history", PositionsOfFirstLength, Positions, _series),
    _mutant("history", AveragedAsAtFirst, Averaged, _series),
    _mutant("copies", PositionsOfFirstDtype, Positions, _series),
    _mutant("copies", CausalInFloat32, Causal, _series),
    _mutant("copies", PositionsStayWide, Positions, _series),
    _mutant("fresh_noise", NoisySeeded, Noisy, _flat, "mode_dependent"),
    _mutant("fresh_noise", NoisyOnce, Noisy, _flat, "mode_dependent"),
    _mutant("fresh_noise", NoisyUnused, Noisy, _flat, "mode_dependent"),
]
