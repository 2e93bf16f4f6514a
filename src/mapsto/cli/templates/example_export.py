"""A model that is trained and exported. Run it: python example.py"""

from __future__ import annotations

import torch

import mapsto
from mapsto import use


def main() -> None:
    """Learn a logic gate from the four rows of its table, then write the artefact."""
    program = mapsto.build_program(use("torch.nn:Linear", in_features=2, out_features=2), optimizer=use("adamw", lr=0.05))
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    for _ in range(40):
        program.step({"input": x, "target": torch.tensor([0, 1, 1, 1])})
    print(mapsto.registry.get("export", "my_name")(program.model, path="gate.npz"))


if __name__ == "__main__":
    main()
