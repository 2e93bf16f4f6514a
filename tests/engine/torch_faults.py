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
        self.norm = nn.BatchNorm1d(hidden) if fault == "normalised" else nn.Identity()
        if fault == "first":
            self.first = nn.Sequential(nn.BatchNorm1d(width), self.first)
            self.side = nn.Sequential(nn.BatchNorm1d(width), self.side)
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
        if self.fault == "dropout":  # which drops in evaluation too
            side = nn.functional.dropout(side, 0.5)
        return self.head(self.norm(torch.relu(self.first(x)) + side))


class Tokens(nn.Module):
    """Logits of the next token, of the token before it alone."""

    def __init__(self, ids: int = 12, width: int = 8) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(ids, width), nn.Linear(width, ids)

    def forward(self, x):
        return self.head(self.table(x))


class Line(nn.Module):
    """A number, linear in what it is given."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)

    def forward(self, x):
        return self.layer(x)


def train_always(model, batch):
    """A task that trains also where it is to evaluate."""
    model.train()
    loss = nn.functional.cross_entropy(model(batch["input"]), batch["target"], reduction="sum")
    return loss, len(batch["target"]), None


def train_for_a_moment(model, batch):
    """The same, and it covers its tracks."""
    before = model.training
    found = train_always(model, batch)
    model.train(before)
    return found


class Logarithm(nn.Module):
    def forward(self, x):
        return torch.log(x)


def single(batch):
    return {**batch, "input": batch["input"].astype("float32")}


@mapsto.schedule
def rising(optimizer, factor: float = 1.1):
    """A learning rate that grows without end."""
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, factor)
