"""Examples of layers: how to build and feed one, stated by its author or found from its signature."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ...core.laws import Subject, Trial
from ...core.random import derive


def complete(subject: Subject) -> Subject:
    """The subject with inputs found by trying the common signatures, where none are stated."""
    return subject


def build(trial: Trial, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A fresh instance, the same one each time: built from the trial's seed, in the dtype asked for."""
    subject = trial.subject
    torch.manual_seed(derive(trial.seed, "build"))
    module: Any = subject.make() if subject.make is not None else subject.target(**subject.example.args)
    if not isinstance(module, nn.Module):
        trial.undecided(f"{subject.label} made a {type(module).__name__}, and an nn.Module is wanted")
    return module.to(dtype) if dtype.is_floating_point else module


def inputs(trial: Trial, size: int, dtype: torch.dtype = torch.float32, stream: str = "inputs") -> tuple[Any, ...]:
    """Inputs of `size` records from the trial's seed; floating ones in the dtype asked for."""
    make = trial.example.inputs
    if make is None:
        trial.undecided(
            f"{trial.subject.label}: no inputs are known; write beside it\n"
            f"  mapsto.example({trial.subject.label.rpartition(':')[2]}, args={{...}}, "
            "inputs=lambda size, generator: (torch.randn(size, 8, generator=generator),))"
        )
    generator = torch.Generator().manual_seed(derive(trial.seed, stream, size))
    made = make(size, generator)
    made = made if isinstance(made, tuple) else (made,)
    return tuple(x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else copy.copy(x) for x in made)
