"""Faults for runs to have: transforms, sources, observers and layers, each with one thing wrong with it."""

from __future__ import annotations

import mmap
import time

import mapsto


class Guesses:
    """Records whose targets have nothing to do with them: they can be learned by heart, and nothing else."""

    def __init__(self, records: int = 24, width: int = 4, seed: int = 0) -> None:
        rng = mapsto.generator(seed, "guesses")
        self.inputs, self.targets = rng.normal(size=(records, width)), rng.integers(3, size=records)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, indices):
        return {"input": self.inputs[indices], "target": self.targets[indices]}


CLOCK = [0.0]
"""Seconds, where a test takes the time by it."""


def slow(batch, seconds: float = 0.01):
    CLOCK[0] += seconds
    return batch


class Late:
    """A transform that raises after some batches."""

    def __init__(self, after: int = 110) -> None:
        self.after = after

    def __call__(self, batch):
        self.after -= 1
        if self.after < 0:
            raise ZeroDivisionError("too late")
        return batch


LEAKED: list[mmap.mmap] = []


def leaky(batch, megabytes: float = 6.0):
    held = mmap.mmap(-1, int(megabytes * 2**20))  # pages of its own: a heap would give memory that was freed before
    held.write(b"x" * len(held))
    LEAKED.append(held)
    return batch


class Hang:
    """A transform that waits for ever after some batches."""

    def __init__(self, after: int = 10) -> None:
        self.after = after

    def __call__(self, batch):
        self.after -= 1
        while self.after < 0:
            time.sleep(0.05)  # the line that a doctor must name
        return batch


def raising(event):
    """An observer that falls out."""
    if event.name == "log":
        raise RuntimeError("no board to write to")
