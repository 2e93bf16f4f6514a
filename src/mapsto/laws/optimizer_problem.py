"""What optimizers are given to solve: a quadratic whose gradients change at each step, the same one in every framework.

What an optimizer needs (a closure, sparse gradients, matrices alone, a learning rate) is found by trying, in a trial. Beyond
`args` an author may state `shapes` of parameters, a `formula` and `variants` of options for it, and `stuck` (O9). Tags:
`needs_closure`, `needs_graph`, `sparse_only`; `across_parameters` (an update depends on other parameters), `one_group`,
`stochastic`, `modifies_grad`, `many_calls` (of a closure), `first_update_free` (need not descend); claims that are then
checked: `low_precision`, `complex`, `sparse`, `compilable`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.laws import Trial
from ..core.random import derive
from .compare import Array

SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (5,), (2, 3, 2))
MATRICES: tuple[tuple[int, ...], ...] = ((4, 3), (3, 6))
NOT_DENSE = frozenset({"needs_closure", "needs_graph", "sparse_only"})
"""Tags of optimizers whose update is no function of dense gradients alone."""


@dataclass(frozen=True)
class Problem:
    """f_t(p) = sum a_t p^2 / 2 + b_t p with a_t in [0.5, 1.5] and normal b_t, drawn from the seed for each step t."""

    seed: int
    shapes: tuple[tuple[int, ...], ...] = SHAPES
    tags: frozenset[str] = field(default=frozenset())

    def start(self) -> list[Array]:
        """The values of fresh parameters, the same ones each time."""
        return [self._normal("weight", i) for i in range(len(self.shapes))]

    def coefficients(self, t: int, i: int) -> tuple[Array, Array]:
        """a_t and b_t of parameter i; for sparse gradients they are zero in all rows but some."""
        rng = np.random.default_rng(derive(self.seed, "curvature", t, i))
        a, b = rng.random(self.shapes[i]) + 0.5, self._normal("slope", t, i)
        if "sparse_only" in self.tags and a.ndim:
            kept = ((np.arange(a.shape[0]) + t) % 3 != 0).reshape(-1, *[1] * (a.ndim - 1))
            a, b = a * kept, b * kept
        return a, b

    def gradient(self, t: int, i: int, parameter: Array) -> Array:
        """a_t p + b_t."""
        a, b = self.coefficients(t, i)
        return np.asarray(a * parameter + b)

    def _normal(self, *key: Any) -> Array:
        return np.asarray(np.random.default_rng(derive(self.seed, *key)).standard_normal(self.shapes[key[-1]]))


def finite(trial: Trial, values: dict[str, Array], what: str) -> None:
    """Demand that all values are finite."""
    for name, value in values.items():
        trial.demand(
            bool(np.isfinite(value).all()),
            f"{what}: {name} is not finite",
            first={"tensor": name},
            measured="nan or inf",
            cause="a division by zero or a root of less than zero",
        )


def named(parameters: list[Any]) -> dict[str, Any]:
    """The parameters by the names `parameter 0`, `parameter 1`, ..., as verdicts say them."""
    return {f"parameter {i}": p for i, p in enumerate(parameters)}
