"""A model maps x to y: a plain torch.nn.Module. Installed, `model/my_name` works in every spec."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MyName(nn.Module):
    """A multi-layer perceptron: [B, inputs] -> [B, outputs].

    hidden: units a layer; layers: hidden layers; dropout: the share of units left out in training.
    """

    # The arguments are the options that a spec states. Nothing else is asked of a module: no base class, no hook. It is
    # built from the run's seed, and random numbers drawn in `forward` are seeded anew each step, so runs can be repeated.
    def __init__(self, inputs: int, outputs: int, *, hidden: int = 64, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * layers]
        blocks = [nn.Sequential(nn.Linear(before, after), nn.GELU(), nn.Dropout(dropout)) for before, after in pairwise(sizes)]
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(sizes[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (or values) of each record."""
        y: Tensor = self.head(self.body(x))
        return y
