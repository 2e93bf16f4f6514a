"""A model that undergoes a surgery by name. Train it: mapsto train example.py"""

from __future__ import annotations

from typing import Any

from torch import nn

import mapsto
from mapsto import CheckpointPlan, Spec, use


# A parameter named after a kind, such as `surgery`, takes a mapping of that kind. Since the model is built before the
# optimizer, the optimizer sees the model as the surgery left it.
@mapsto.model
def small_gate(surgery: Any, features: int = 8) -> nn.Module:
    """[B, 2] -> logits [B, 2]."""
    model = nn.Sequential(nn.Linear(2, features), nn.ReLU(), nn.Linear(features, 2))
    changed: nn.Module = surgery(model)
    return changed


def spec() -> Spec:
    """It learns a logic gate that is not linear, exclusive or, from the four rows of its table."""
    table = use("arrays", input=[[0, 0], [0, 1], [1, 0], [1, 1]], target=[0, 1, 1, 0])
    return Spec(
        name="my_name",
        model=use("small_gate", surgery=use("my_name", slope=0.2)),
        optimizer=use("adamw", lr=0.02),
        data={"train": {"source": table, "transforms": [use("scale", factor=1.0)], "batch_size": 4}},
        epochs=100,
        log_every=20,
        checkpoint=CheckpointPlan(every=50),
    )
