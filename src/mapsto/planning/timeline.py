"""The timeline of a step on one rank: how many bytes are alive, and what they are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LABELS = ("parameters", "gradients", "optimizer", "buffers", "activations", "communication")
"""What memory is for, in the order of a table; a storage that no one names is an activation."""


@dataclass(frozen=True)
class Timeline:
    """Bytes that are held at first, by label (int64[labels]); then what changes: (place in LABELS, bytes) (int64[n, 2])."""

    held: Any
    changes: Any

    def totals(self) -> Any:
        """Bytes alive after each change (int64[n])."""
        return self.held.sum() + np.cumsum(self.changes[:, 1])

    def peak(self) -> tuple[int, dict[str, int]]:
        """The most bytes alive at once, and by label what they were."""
        totals = np.cumsum(self.changes[:, 1])
        until = int(totals.argmax()) + 1 if len(totals) and totals.max() > 0 else 0
        sums = self.held.copy()
        np.add.at(sums, self.changes[:until, 0], self.changes[:until, 1])
        return int(sums.sum()), dict(zip(LABELS, map(int, sums), strict=True))


def settled(changes: Any) -> Any:
    """The changes of a timeline, in which what is freed together, which has no order of its own, is sorted."""
    made = changes[:, 1] > 0
    return changes[np.lexsort((changes[:, 1], changes[:, 0], ~made, np.cumsum(made)))]
