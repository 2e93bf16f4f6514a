"""A program of one's own loop that a mesh is applied to. Run it: python example.py"""

from __future__ import annotations

import torch

import mapsto
from mapsto import use


def main() -> None:
    """Learn a logic gate from the four rows of its table, in micro-shards."""
    mesh = mapsto.registry.get("mesh", "my_name")(shards=2)
    program = mesh(mapsto.build_program(use("torch.nn:Linear", in_features=2, out_features=2), optimizer=use("adamw", lr=0.05)))
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    batch = {"input": x, "target": torch.tensor([0, 1, 1, 1])}
    for step in range(40):
        metrics = program.step(batch)
        if step % 10 == 9:
            print(f"step {step + 1}: loss {program.fetch([metrics])['loss']:.4f}")


if __name__ == "__main__":
    main()
