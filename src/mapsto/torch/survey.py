"""What a survey of the data asks of a torch program: what its task reads, what its model takes, how it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .state import State

NAMED = 20
"""Modules that are named at most, of each list."""


def asked(model: nn.Module, task: Any) -> dict[str, Any]:
    """inputs, target: the fields that the task says it reads; embeddings: how many ids each table takes; normalises: whether
    the first layer is a normalisation."""
    leaves = [module for module in model.modules() if not next(module.children(), None)]
    tables = {name: module.num_embeddings for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    found: dict[str, Any] = {"embeddings": tables, "normalises": bool(leaves) and "Norm" in type(leaves[0]).__name__}
    inputs, target = getattr(task, "inputs", None), getattr(task, "target", None)
    if isinstance(inputs, tuple) and isinstance(target, str):
        found |= {"inputs": list(inputs), "target": target}
    return found


@contextmanager
def modes(state: State) -> Iterator[dict[str, list[str]]]:
    """Within it a model evaluates; at its end the dict holds the modules in training mode (`training`) and those whose
    running statistics were changed (`moved`), which costs a glance at each module and nothing of the device."""
    named = dict(state.model.named_modules())
    before = {name: _version(module) for name, module in named.items()}
    found: dict[str, list[str]] = {}
    yield found
    training = [name or "the model" for name, module in named.items() if module.training and _differs(module)]
    moved = [name or "the model" for name, module in named.items() if _version(module) != before[name]]
    found |= {"training": training[:NAMED], "moved": moved[:NAMED]}


def _differs(module: nn.Module) -> bool:
    """Whether a module is one that does something else in training mode."""
    rate = getattr(module, "dropout", 0.0)
    dropout = "Dropout" in type(module).__name__ or (isinstance(rate, float) and rate > 0)
    return dropout or getattr(module, "running_mean", None) is not None


def _version(module: nn.Module) -> int:
    """How often its count of batches was written to (the kernels that move running statistics leave theirs as they are)."""
    return int(getattr(getattr(module, "num_batches_tracked", None), "_version", 0))
