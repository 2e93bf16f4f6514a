"""Which worker computes which block of micro-shards, and what of it is still to come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


def blocks(micro_shards: int, workers: int) -> list[range]:
    """The micro-shards of a global batch in as many consecutive blocks as there are workers; empty ones are left out."""
    found = [range(micro_shards * w // workers, micro_shards * (w + 1) // workers) for w in range(workers)]
    return [block for block in found if block]


@dataclass
class Task:
    """A block of a step that a worker (the process `actor`) was given: what it will tell, and its gradients, one a server."""

    step: int
    block: int
    worker: int
    actor: Any
    answer: Any
    shards: list[Any]


@dataclass
class Deal:
    """Blocks dealt to workers: block b is worker b's own; those of a worker that is gone go to whoever has least to do.

    A block stays the unit in which gradients are summed, whoever computes it, so that the loss of a worker changes no bit.
    """

    blocks: list[range]
    here: set[int] = field(default_factory=set)
    holder: dict[int, int] = field(default_factory=dict)

    def arrived(self, worker: int) -> None:
        """A worker is there: it takes its own block (again)."""
        self.here.add(worker)
        self._deal()

    def gone(self, worker: int) -> None:
        """A worker is not there any more: its blocks go to the others."""
        self.here.discard(worker)
        self._deal()

    def _deal(self) -> None:
        self.holder = {b: b for b in range(len(self.blocks)) if b in self.here}
        for b in range(len(self.blocks)):
            if b not in self.holder and self.here:
                self.holder[b] = min(sorted(self.here), key=lambda w: self._load(w))

    def _load(self, worker: int) -> int:
        return sum(len(self.blocks[b]) for b, w in self.holder.items() if w == worker)

    def of(self, workers: Iterable[int]) -> list[int]:
        """The numbers of the blocks that these workers were dealt."""
        wanted = set(workers)
        return [b for b, w in self.holder.items() if w in wanted]
