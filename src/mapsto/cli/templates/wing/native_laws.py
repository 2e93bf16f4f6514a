"""Laws of this framework alone: what only its users can break. They judge mappings of this wing and no other's."""

from __future__ import annotations

import numpy as np

from mapsto.core.laws import Laws, Trial
from mapsto.laws.drivers import LayerDriver

laws = Laws("layer", "model", driver=LayerDriver)


@laws.law(
    "W1",
    "own_weights",
    priority=1,
    why="Two instances that share an array train each other.",
    satisfy="Make the arrays of weights in __init__, and never as defaults or attributes of the class.",
    catches=("an array as the default of an argument",),
)
def own_weights(trial: Trial) -> None:
    """Two instances share no weights."""
    one, other = trial.driver.build(trial), trial.driver.build(trial)
    names = [name for name, w in one.weights.items() if np.shares_memory(w, other.weights[name])]
    trial.demand(not names, f"two instances share {', '.join(names)}", cause="an array that is made once for all")
    trial.control("it has weights", bool(one.weights))
