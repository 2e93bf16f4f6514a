"""Where the recipes are, and the weights of runs compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mapsto import Run, Spec

RECIPES = Path(__file__).parents[2] / "recipes"


def weights_at(spec: Spec, folder: Path, checkpoint: int) -> dict[str, np.ndarray]:
    """The weights in a checkpoint of a run."""
    with Run(spec, folder).trained(checkpoint) as program:
        return program.weights()


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether all are bitwise equal."""
    return one.keys() == other.keys() and all(one[n].tobytes() == other[n].tobytes() for n in one)
