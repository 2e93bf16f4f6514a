"""A framework in one file, to be replaced by yours: layers on NumPy with a backward pass of their own, and schedules."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Layer:
    """Named weights, a pass forward that keeps what the pass backward needs, and whether it is in training."""

    def __init__(self) -> None:
        self.weights: dict[str, Array] = {}
        self.training = False

    def forward(self, x: Array, rng: np.random.Generator) -> tuple[Array, Any]:
        """The output, and what `backward` needs; random numbers come from `rng` alone."""
        raise NotImplementedError

    def backward(self, kept: Any, gradient: Array) -> tuple[Array, dict[str, Array]]:
        """The gradient of x, and those of the weights by name, for a gradient of the output."""
        raise NotImplementedError


class Schedule:
    """A factor of the learning rate that depends on the updates so far, which are all of its state."""

    def __init__(self) -> None:
        self.updates = 0

    def factor(self) -> float:
        """What the rate is multiplied by before the next update."""
        raise NotImplementedError
