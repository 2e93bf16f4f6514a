"""A transform maps a batch to a batch. Installed, `transform/my_name` works in every spec."""

from __future__ import annotations

from typing import Any

import numpy as np


# A function of a batch (a dict of arrays, records first); what follows the batch are the options that a spec states.
# One that draws random numbers takes `rng`: the reader gives it a generator of (seed, position, shard), so that a
# resumed run, or one with other worker processes, draws the same numbers. Never draw from a generator of your own.
def my_name(batch: dict[str, Any], *, rng: np.random.Generator, field: str = "input", scale: float = 0.1) -> dict[str, Any]:
    """Add Gaussian noise of standard deviation `scale` to a field."""
    values = batch[field]
    noise = rng.standard_normal(values.shape) * scale
    return {**batch, field: (values + noise).astype(values.dtype)}  # a new dict: the source's own arrays stay as they are
