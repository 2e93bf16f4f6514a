"""A run on the mesh, with one's own loop. Run it: python example.py"""

from __future__ import annotations

import numpy as np

import mapsto
from mapsto import use
from mapsto.data import Batches


def main() -> None:
    """Learn a logic gate from the four rows of its table, in micro-shards."""
    program = mapsto.build_program(
        use("torch.nn:Linear", in_features=2, out_features=2),
        optimizer=use("adamw", lr=0.05),
        mesh=use("my_name", shards=2),
    )
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    reader = Batches({"input": x, "target": np.array([0, 1, 1, 1])}, batch_size=4)
    with reader.stream(0, 40, **program.reader_args) as stream:
        for step, shards in stream:
            metrics = program.step(shards)
            if step % 10 == 9:
                print(f"step {step + 1}: loss {program.fetch([metrics])['loss']:.4f}")


if __name__ == "__main__":
    main()
