"""Nets and layers with one thing wrong with them."""

from __future__ import annotations

import faults
import torch
from torch import nn

import mapsto


class Net(nn.Module):
    """Two layers; what else it may have is a fault."""

    def __init__(self, width: int = 4, hidden: int = 8, fault: str = "", dtype: str = "float32") -> None:
        super().__init__()
        self.fault = fault
        self.first = nn.Linear(width, hidden)
        self.side = nn.Linear(width, hidden)
        self.head = nn.Linear(hidden, 3)
        self.log = Logarithm()
        self.kept: list[torch.Tensor] = []
        if fault == "dead":
            nn.init.constant_(self.first.bias, -1e3)
        self.to(getattr(torch, dtype))

    def forward(self, x):
        x = x.to(self.head.weight.dtype)
        side = self.side(x)
        if self.fault == "detached":
            side = side.detach()
        if self.fault == "logarithm":
            side = self.log(side)
        if self.fault == "grows":
            self.kept.append(x)
            faults.CLOCK[0] += 0.002 + 0.0002 * len(self.kept)
        if self.fault == "root":  # whose gradient at 0 is not a number, while its value is
            side = torch.sqrt(side * (side > 0))
        return self.head(torch.relu(self.first(x)) + side)


class Logarithm(nn.Module):
    def forward(self, x):
        return torch.log(x)


def single(batch):
    return {**batch, "input": batch["input"].astype("float32")}


@mapsto.schedule
def rising(optimizer, factor: float = 1.1):
    """A learning rate that grows without end."""
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, factor)
