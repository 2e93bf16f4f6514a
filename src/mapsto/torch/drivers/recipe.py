"""The records of a recipe, for the laws of its parts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

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
