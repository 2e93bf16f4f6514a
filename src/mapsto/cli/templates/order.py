"""An order maps (seed, epoch, position) to a record index. Installed, `order/my_name` works in every spec."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class MyName:
    """Maps position p of epoch e to record (p + seed + e * stride) mod records: each epoch begins elsewhere."""

    # A reader fills in `records` and `seed` (through `over`), so that a spec states only the options behind them.
    def __init__(self, records: int | None = None, seed: int = 0, *, stride: int = 1) -> None:
        self.records, self.seed, self.stride = records, seed, stride

    def over(self, records: int, seed: int) -> MyName:
        """This order with its open length and seed filled in."""
        return MyName(records, seed, stride=self.stride)

    def __len__(self) -> int:
        return self.records or 0

    # A formula, not a stored permutation: no memory, and any position at once. Every record must come exactly once an epoch.
    def __call__(self, epoch: int, positions: Indices) -> Indices:
        found: Indices = (positions + self.seed + epoch * self.stride) % len(self)
        return found
