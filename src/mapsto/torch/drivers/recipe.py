"""The records, model and task of a recipe, for the laws of its parts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.parts import build as built
from ...core.values import Part
from ...data.laws.contents import records_of
from ...laws.program_inputs import first_batch

POOL = 64
"""Records that are read at once, and of which all are picked: padded together they have one length, whatever their number."""


def of_recipe(spec: Any) -> Callable[..., tuple[dict[str, Any]]]:
    """So many of the records that the recipe's reader gives first."""

    read = functools.cache(functools.partial(first_batch, spec))

    def make(size: int, generator: torch.Generator) -> tuple[dict[str, Any]]:
        batch = read(max(POOL, 4 * size))
        there = len(next(iter(batch.values())))
        picked = torch.randperm(max(there, size), generator=generator)[:size].numpy() % there
        return (records_of(batch, picked),)

    return make


def native(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with its arrays as tensors of their own."""
    return {n: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for n, v in batch.items()}


def model_of(spec: Any) -> Any:
    """A fresh model of the recipe."""
    return built(spec.model, "model", path="model", injected={"seed": spec.seed}, wing=spec.wing)


def task_of(spec: Any, part: Any = None) -> Any:
    """The recipe's task (or another part in its place), built."""
    return built(spec.task if part is None else part, "task", path="task", injected={"seed": spec.seed}, wing=spec.wing)


def trained_in(spec: Any) -> dict[str, Any]:
    """What a middleware of the recipe acts on: `model`, `task` and `inputs`, as an example states them.

    Raises what building or reading them raises.
    """
    batches = of_recipe(spec)
    model_of(spec), batches(1, torch.Generator())
    return {
        "model": functools.partial(model_of, spec),
        "task": task_of(spec),
        "inputs": lambda size, generator: tuple(native(b) for b in batches(size, generator)),
    }


class _Asked(Exception):
    """What a task gave its loss."""


def loss_inputs(spec: Any, path: str) -> tuple[Callable[..., tuple[Any, ...]], tuple[int, ...]]:
    """What the recipe's task gives the loss at a path such as `task.loss`, and which of it is no output of the model.

    Outputs of the recipe's model are spread by normal numbers, as training spreads them; targets are those of its batches.
    """

    def ask(*given: Any) -> Any:
        raise _Asked(given)

    task, model, batches = task_of(spec, _with(spec.task, path.split(".")[1:], ask)), model_of(spec), of_recipe(spec)

    def asked(size: int, generator: torch.Generator) -> tuple[Any, ...]:
        (batch,) = batches(size, generator)
        torch.manual_seed(size)
        try:
            task(model, native(batch))
        except _Asked as noted:
            return tuple(noted.args[0])
        raise TypeError(f"the task does not call {path}")

    def make(size: int, generator: torch.Generator) -> tuple[Any, ...]:
        return tuple(_spread(x, generator) for x in asked(size, generator))

    fixed = [i for i, x in enumerate(asked(2, torch.Generator())) if not (isinstance(x, Tensor) and x.requires_grad)]
    return make, tuple(fixed)


def _with(part: Any, path: list[str], value: Any) -> Any:
    """A part with another value at a path of its arguments."""
    if not path:
        return value
    return Part(part.use, {**part.args, path[0]: _with(part.args.get(path[0]), path[1:], value)})


def _spread(x: Any, generator: torch.Generator) -> Any:
    """Another output than those of a fresh model, which are near each other; probabilities and targets stay."""
    if not isinstance(x, Tensor) or not x.requires_grad or bool((x.detach() >= 0).all()) or bool((x.detach() <= 0).all()):
        return x.detach() if isinstance(x, Tensor) else x
    return x.detach() + torch.randn(x.shape, generator=generator).to(x.dtype)
