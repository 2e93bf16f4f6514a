"""Buffers that forward passes change: their value depends on which micro-shards a rank computes; strict mode refuses them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....core.errors import SpecError

STEPS = 2
"""Steps that are watched: with one micro-shard a rank, the second shows what the first changed."""


class Buffers:
    """Compares a model's buffers after each of the first passes. One that is filled once, by the first pass, is a cache."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.before: dict[str, Tensor] | None = None
        self.first: int | None = None

    def compare(self, step: int) -> None:
        """After a pass of this step. Raises SpecError naming a buffer that has another value than after the pass before."""
        self.first = step if self.first is None else self.first
        if step >= self.first + STEPS:
            self.before = None
            return
        now = {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}
        for name, value in now.items():
            old = (self.before or {}).get(name)
            if old is not None and old.shape == value.shape and not torch.equal(old, value):
                module = name.rpartition(".")[0] or "the model"
                raise SpecError(
                    f"strict: the buffer {name!r} changes in every training pass of {module!r}: its value would depend on how "
                    "many micro-shards a rank computes. Freeze it, or replace the layer by one without running state"
                )
        self.before = now
