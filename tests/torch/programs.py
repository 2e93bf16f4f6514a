"""Small programs for the torch wing's tests, and how to tell two of them apart bit by bit."""

from __future__ import annotations

import torch
from torch import nn

from mapsto import use
from mapsto.torch import build_program


class Net(nn.Module):
    """A little of everything that can go wrong: blocks, dropout, batch statistics, a residual."""

    def __init__(self, width: int = 12, classes: int = 3, dropout: float = 0.2, norm: bool = True) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width), nn.BatchNorm1d(width) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)
            )
            for _ in range(2)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def plain():
    """Without dropout and batch statistics, in float64: micro-batches may not matter."""
    return Net(dropout=0.0, norm=False).double()


def batch(step: int = 0, records: int = 16, dtype=torch.float32, classes: int = 3):
    g = torch.Generator().manual_seed(1000 + step)
    return {
        "input": torch.randn(records, 8, generator=g, dtype=dtype),
        "target": torch.randint(0, classes, (records,), generator=g),
    }


def program(*middleware, model=Net, optimizer=None, schedule=None, seed=3, **options):
    return build_program(
        model,
        optimizer=optimizer or use("adamw", lr=1e-2),
        schedule=schedule,
        middleware=middleware,
        seed=seed,
        device="cpu",
        **options,
    )


def run(made, steps: int = 3, start: int | None = None):
    """Take steps on numbered batches; the metrics of each."""
    first = made.position if start is None else start
    return [made.step(batch(step)) for step in range(first, first + steps)]


def snapshot(made):
    """The state tree with every tensor copied."""

    def copied(value):
        if isinstance(value, torch.Tensor):
            return value.detach().clone()
        if isinstance(value, dict):
            return {k: copied(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(copied(v) for v in value)
        return value

    return copied(made.state_tree())


def differing(one, two, path=""):
    """Paths at which two trees differ in a bit, a dtype or a key."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        same = one.dtype == two.dtype and one.shape == two.shape and torch.equal(_bits(one), _bits(two))
        return [] if same else [path]
    if isinstance(one, dict) and isinstance(two, dict):
        keys = sorted(set(one) ^ set(two), key=str)
        return [f"{path}.{k}" for k in keys] + [d for k in one if k in two for d in differing(one[k], two[k], f"{path}.{k}")]
    if isinstance(one, (list, tuple)) and type(one) is type(two) and len(one) == len(two):
        return [d for i, (a, b) in enumerate(zip(one, two, strict=True)) for d in differing(a, b, f"{path}.{i}")]
    return [] if type(one) is type(two) and (one == two or (one != one and two != two)) else [path]


def _bits(tensor):
    tensor = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor.reshape(1).view(torch.uint8)


def same_weights(one, two):
    return not differing(dict(one.model.state_dict()), dict(two.model.state_dict()))
