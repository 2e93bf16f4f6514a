"""A source maps record indices to a batch. Once this package is installed, `source/my_name` works in every spec."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mapsto.data import check_indices


class MyName:
    """Points on two rings side by side: `input` [B, 2] float32, and `target` [B] int64, the ring that each lies on.

    records: how many there are; gap: the distance between the centres of the rings, whose radius is 1.
    """

    vectorised = True  # `source[indices]` gathers a whole batch, which is far faster than one record at a time

    # The arguments are the options that a spec states; their types are checked before a run starts.
    def __init__(self, records: int = 1000, *, gap: float = 3.0) -> None:
        self.records, self.gap = records, gap

    def __len__(self) -> int:
        return self.records

    # Any number of indices, in any order, some of them twice. Depend on nothing but the indices: then every run of the
    # same spec sees the same data, and going on at step 1,000,000 costs what going on at step 1 does.
    def __getitem__(self, indices: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.generic]]:
        check_indices(indices, self.records, "my_name")  # NumPy would take a wrong one in silence
        target = indices % 2
        angle = indices * 2.399963  # the golden angle spreads any number of points evenly
        points = np.stack([np.cos(angle) + self.gap * (target - 0.5), np.sin(angle)], axis=-1)
        return {"input": points.astype(np.float32), "target": target}
