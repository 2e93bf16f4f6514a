"""A layer maps x to y: a plain torch.nn.Module that is a part of models. Installed, it is `layer/my_name`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MyName(nn.Module):
    """A gated residual layer: [..., features] -> [..., features], y = x + g * tanh(W x + b).

    gate: the value that g, one number a feature, starts from; at 0 the layer starts as the identity, which keeps deep
    stacks trainable (Bachlechner et al. 2021).
    """

    # The arguments are the options that a spec states. Nothing else is asked of a module: no base class, no hook.
    def __init__(self, features: int, *, gate: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Linear(features, features)
        self.gate = nn.Parameter(torch.full((features,), gate))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as x."""
        return x + self.gate * torch.tanh(self.inner(x))
