"""The layers of the wing; each is an entry `layer/...` in pyproject.toml."""

from __future__ import annotations

from typing import Any

import numpy as np

import mapsto

from .framework import Array, Layer


class Dense(Layer):
    """y = tanh(x W + b): [..., inputs] -> [..., outputs]."""

    def __init__(self, rng: np.random.Generator, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weights = {"W": rng.normal(size=(inputs, outputs)) / np.sqrt(inputs), "b": np.zeros(outputs)}

    def forward(self, x: Array, rng: np.random.Generator) -> tuple[Array, Any]:
        """The same leading axes as x."""
        del rng  # nothing is drawn
        y = np.tanh(x @ self.weights["W"] + self.weights["b"])
        return y, (x, y)

    def backward(self, kept: Any, gradient: Array) -> tuple[Array, dict[str, Array]]:
        """tanh' = 1 - tanh^2; the weights get sums over all leading axes."""
        x, y = kept
        inner = gradient * (1 - y * y)
        rows, columns = x.reshape(-1, x.shape[-1]), inner.reshape(-1, inner.shape[-1])
        return inner @ self.weights["W"].T, {"W": rows.T @ columns, "b": columns.sum(0)}


def batches(size: int, rng: np.random.Generator) -> tuple[Array]:
    """The arguments of one call with so many records: here one array [size, 4]."""
    return (rng.normal(size=(size, 4)),)


# How the laws build and feed it: see the page on what an author may state (docs/examples.md).
mapsto.example(Dense, args={"inputs": 4, "outputs": 3}, inputs=batches, tags=("row_independent",))
