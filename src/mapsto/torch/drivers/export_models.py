"""Small models on which an export is judged: each has something that artefacts are known to lose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Perceptron(nn.Module):
    """[B, 6] -> [B, 3], with batch statistics, dropout, and an input that is scaled by a buffer kept out of checkpoints."""

    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("unit", torch.linspace(0.5, 2.0, 6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.outer(self.drop(torch.relu(self.norm(self.inner(x * self.unit)))))
        return y


class Tagger(nn.Module):
    """ids, mask [B, T] -> logits [B, 512], a masked mean over an embedding whose weight is that of the output as well."""

    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(512, 32), nn.Linear(32, 512, bias=False)
        if tied:
            self.out.weight = self.embed.weight

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        kept = mask.unsqueeze(-1).to(self.embed.weight.dtype)
        mean = (self.embed(ids) * kept).sum(1) / kept.sum(1).clamp(min=1)
        y: Tensor = self.out(mean)
        return y


class Switch(nn.Module):
    """[B, 6] -> [B, 4], [B]: one of two maps, chosen for each record by the sign of its mean, and the scale of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        level = x.mean(1)
        chosen = torch.where((level > 0).unsqueeze(1), self.up(x), self.down(x))
        return chosen, level / (1 + x.abs().max())


class Pixels(nn.Module):
    """[B, 3, 6, 6] -> [B, 5]: a convolution, group statistics, pooling, and a flattening that reads the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        z: Tensor = self.out(y.reshape(x.shape[0], -1))
        return z


Make = Callable[[int, torch.Generator], tuple[Any, ...]]


@dataclass(frozen=True)
class Sample:
    """A model to export: what makes it, and `(size, generator) -> inputs`."""

    build: Callable[[], nn.Module]
    inputs: Make

    @property
    def said(self) -> str:
        """The name of the model."""
        return getattr(self.build, "__name__", type(self.build).__name__)


def ids(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randint(512, (size, 5), generator=generator), torch.rand(size, 5, generator=generator) > 0.4


def _normal(*shape: int) -> Make:
    return lambda size, generator: (torch.randn(size, *shape, generator=generator),)


SAMPLES = (
    Sample(Perceptron, _normal(6)),
    Sample(Tagger, ids),
    Sample(Switch, _normal(6)),
    Sample(Pixels, _normal(3, 6, 6)),
)
