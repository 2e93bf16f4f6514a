"""The global random streams of Python, NumPy and the frameworks that are loaded: read, seeded, put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ...core.law_wings import law_wings
from .contents import digest


def states() -> dict[str, str]:
    """A digest of the state of each."""
    found = {"Python's random": digest(random.getstate()), "NumPy's": digest(np.random.get_state(legacy=False))}
    return found | {name: digest(state) for wing in law_wings(default=False) for name, state in wing.streams().items()}


def of_frameworks() -> set[str]:
    """The names of those that frameworks bring."""
    return {name for wing in law_wings(default=False) for name in wing.streams()}


def seed(number: int) -> None:
    """Seed the global random streams of Python, NumPy and the loaded frameworks."""
    random.seed(number)
    np.random.seed(number % (1 << 32))  # the stream that others draw from
    for wing in law_wings(default=False):
        wing.seed(number)


@contextmanager
def kept() -> Iterator[None]:
    """Within it they may be seeded and drawn from; they are put back at its end."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    others = [(wing, wing.streams()) for wing in law_wings(default=False)]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for wing, own in others:
            wing.put_streams(own)
