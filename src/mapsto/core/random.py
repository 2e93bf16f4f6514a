"""Randomness is a mapping: (seed, stream, step, micro-shard or record) -> generator. Nothing is kept, so nothing is lost."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): a bijection of 64-bit integers in which every bit depends on all."""
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def derive(seed: int, *path: int | str) -> int:
    """The 64-bit seed of the stream that `path` names, such as `derive(seed, "dropout", step, shard)`."""
    return extend(mix(seed + GOLDEN), *path)


def extend(state: int, *path: int | str) -> int:
    """`derive(seed, *a, *b) == extend(derive(seed, *a), *b)`: for a prefix that is used many times."""
    for part in path:
        number = zlib.crc32(part.encode()) | (1 << 40) if isinstance(part, str) else part
        state = mix(state + GOLDEN * (number + 1))
    return state


def generator(seed: int, *path: int | str) -> numpy.random.Generator:
    """A NumPy generator (Philox) for the stream that `path` names; equal arguments give equal draws in any process."""
    import numpy

    return numpy.random.Generator(numpy.random.Philox(key=derive(seed, *path)))
