"""The global random streams of Python, NumPy and (where it is loaded) PyTorch: read, seeded, put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .contents import digest


def states() -> dict[str, str]:
    """A digest of the state of each."""
    found = {"Python's random": digest(random.getstate()), "NumPy's": digest(np.random.get_state(legacy=False))}
    if (torch := sys.modules.get("torch")) is not None:
        found["PyTorch's"] = digest(torch.get_rng_state())
    return found


def seed(number: int) -> None:
    """Seed all of them."""
    random.seed(number)
    np.random.seed(number % (1 << 32))  # the stream that others draw from
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(number % (1 << 63))


@contextmanager
def kept() -> Iterator[None]:
    """Within it they may be seeded and drawn from; they are put back at its end."""
    python, numpy, torch = random.getstate(), np.random.get_state(legacy=False), sys.modules.get("torch")
    other: Any = torch.get_rng_state() if torch is not None else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch is not None:
            torch.set_rng_state(other)
