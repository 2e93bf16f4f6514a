"""State that is each rank's own, such as the error feedback of a compressor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PerRank:
    """A leaf of a middleware's `state_dict()`: a tensor that each rank keeps for itself, under one name.

    On the same number of ranks each gets its own back. On another number nothing fits: `load_state_dict` is handed
    `PerRank(None)` and starts afresh where `afresh` was said when it was saved; else a run cannot go on (CheckpointError).
    Who only evaluates or predicts with a checkpoint hands over `PerRank(None)` too.
    """

    value: Any
    afresh: bool = False
