"""A model that is given a layer by name. Train it: mapsto train example.py"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import mapsto
from mapsto import CheckpointPlan, Spec, use


@mapsto.model
class Gate(nn.Module):
    """[B, 2] -> logits [B, 2]. A parameter named after a kind, such as `layer`, takes a mapping of that kind."""

    def __init__(self, layer: Any, features: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, features), layer, nn.Linear(features, 2))

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        y: Tensor = self.body(x)
        return y


def spec() -> Spec:
    """It learns a logic gate that is not linear, exclusive or, from the four rows of its table."""
    table = use("arrays", input=[[0, 0], [0, 1], [1, 0], [1, 1]], target=[0, 1, 1, 0])
    return Spec(
        name="my_name",
        model=use("gate", layer=use("my_name", features=8, gate=0.1)),
        optimizer=use("adamw", lr=0.02),
        data={"train": {"source": table, "transforms": [use("scale", factor=1.0)], "batch_size": 4}},
        epochs=100,
        log_every=20,
        checkpoint=CheckpointPlan(every=50),
    )
