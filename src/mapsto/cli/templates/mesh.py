"""A mesh maps a one-device program to one over many devices. Installed, it is `mesh/my_name`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class MyName:
    """Split each global batch into `shards` micro-shards that are computed in turn on the one device there is.

    The weights become those of the whole batch at once, whatever the number: gradients are summed and divided once.
    """

    # The arguments are the options that a spec states; the call is the mapping itself.
    def __init__(self, shards: int = 2) -> None:
        if shards < 1:
            raise ValueError(f"shards: {shards} is less than one")
        self.shards = shards

    def __call__(self, program: Any) -> Sharded:
        return Sharded(program, self.shards)


class Sharded:
    """The program with another `step`; everything else is the inner program's."""

    def __init__(self, inner: Any, shards: int) -> None:
        self.inner, self.shards = inner, shards

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    # Over many devices each rank would take its own micro-shards, and two all-reduces would stand where sums are taken.
    def step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """One step: the gradient of the summed loss of each micro-shard, divided once by the summed weight."""
        state = self.inner.state
        state.clear()
        count = len(next(iter(batch.values())))
        total: Any = 0.0
        weight: Any = 0.0
        with state.sums():
            for shard in range(self.shards):
                cut = slice(count * shard // self.shards, count * (shard + 1) // self.shards)
                if cut.stop > cut.start:
                    state.shard = shard
                    value, counted = self.inner.grad(state, {name: field[cut] for name, field in batch.items()})["loss"]
                    total, weight = total + value, weight + counted
        state.shard = 0
        torch._foreach_div_(state.gradients(), weight)
        metrics: dict[str, Any] = self.inner.update(state, {"loss": (total, weight)})
        state.step += 1
        return metrics
