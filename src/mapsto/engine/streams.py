"""The global random streams of Python and NumPy: seeded for a run, kept in its checkpoints, put back after it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..core.random import derive
from .wing import Wing


def capture() -> dict[str, Any]:
    """The states of the global random streams of Python and NumPy, for a checkpoint or to be put back."""
    return {"python": random.getstate(), "numpy": np.random.get_state(legacy=False)}


def put_back(states: dict[str, Any]) -> None:
    """Set the global random streams of Python and NumPy to states that `capture` gave."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])


@contextlib.contextmanager
def preserve_rng(wing: Wing) -> Iterator[None]:
    """Within it anything may be drawn from Python's, NumPy's and the framework's global streams: it leaves no trace."""
    states = capture()
    try:
        with wing.deterministic():
            yield
    finally:
        put_back(states)


@contextlib.contextmanager
def seeded(seed: int, name: str, wing: Wing) -> Iterator[None]:
    """Within it Python's and NumPy's global streams start at (seed, name); the caller's are back afterwards."""
    with preserve_rng(wing):
        number = derive(seed, name)
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)
        yield
