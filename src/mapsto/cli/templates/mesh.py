"""A mesh maps a one-device program to one over many devices. Installed, it is `mesh/my_name`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mapsto.data import PaddingBatch
from mapsto.torch import OneProcess


class MyName(OneProcess):
    """Split each global batch into `shards` micro-shards that are computed in turn on the one device there is.

    The weights become those of the whole batch at once, whatever the number: gradients are summed and divided once.
    """

    # The arguments are the options that a spec states: `mesh: {use: my_name, shards: 4}`.
    def __init__(self, shards: int = 2) -> None:
        super().__init__()
        if shards < 1:
            raise ValueError(f"shards: {shards} is less than one")
        self.shards = shards

    def join(self, device: torch.device, micro_shards: int | None, strict: bool = False) -> None:  # noqa: ARG002
        """Called first: take this process's place among the ranks, and say which micro-shards are its own."""
        self.micro_shards = micro_shards or self.shards
        self.own = tuple(range(self.micro_shards))

    @property
    def reader_args(self) -> dict[str, Any]:
        """Arguments for a reader's `stream`: a list of these micro-shards at each position."""
        return {"shard": self.own, "shards": self.micro_shards}

    def setup(self, builder: Any) -> None:
        """Place `builder.model`, in place; there is no optimizer yet. One device has nothing to do."""

    def begin(self, state: Any) -> None:
        """What middlewares ask of the ranks, they ask `state.mesh`."""
        state.mesh = self

    # Over many devices each rank would take its own micro-shards, and two all-reduces would stand where sums are taken.
    def grad(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """The gradient of the summed loss of each micro-shard, divided once by the summed weight."""

        def over_shards(state: Any, batches: list[Any]) -> dict[str, Any]:
            total: Any = 0.0
            weight: Any = 0.0
            with state.sums():
                for state.shard, batch in zip(self.own, batches, strict=True):
                    if not isinstance(batch, PaddingBatch):  # a real batch in the place of a shard without records
                        value, counted = inner(state, batch)["loss"]
                        total, weight = total + value, weight + counted
            state.shard = 0
            if not state.summing:
                torch._foreach_div_(state.gradients(), weight)
            return {"loss": (total, weight)}

        return over_shards
