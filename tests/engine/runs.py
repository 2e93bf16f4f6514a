"""Small runs for the engine's tests, and how to tell two of them apart bit by bit."""

from __future__ import annotations

import json

import numpy as np

import mapsto
from mapsto.engine.checkpoints.checkpoint import Checkpoints
from mapsto.engine.checkpoints.tree import flatten
from mapsto.engine.run import Run
from mapsto.engine.wing import find_wing


class Blobs:
    """Three Gaussian blobs, computed from the record's index: any number of records in no memory."""

    def __init__(self, records: int = 50, width: int = 4, seed: int = 0) -> None:
        self.records, self.width, self.seed = records, width, seed
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.records

    def __getitem__(self, indices):
        self.read.extend(int(i) for i in indices)
        target = np.asarray(indices) % 3
        noise = np.stack([mapsto.generator(self.seed, "blob", int(i)).normal(size=self.width) for i in indices])
        return {"input": noise + target[:, None], "target": target}


def jitter(batch, *, rng, scale: float = 0.1):
    """An augmentation."""
    return {**batch, "input": batch["input"] + rng.normal(0, scale, batch["input"].shape)}


def numpy_spec(**changes) -> mapsto.Spec:
    """A run of 13 steps, 6 of them an epoch and its last batch uneven, that ends within its third epoch."""
    source = {"use": "runs:Blobs"}
    augment = {"use": "runs:jitter", "scale": 0.2}
    fields = {
        "model": {"use": "numpy_wing:Model", "inputs": 4},
        "optimizer": {"use": "numpy_wing:adam", "lr": 0.05},
        "task": "numpy_wing:classify",
        "data": {
            "train": {"source": source, "batch_size": 9, "shuffle": True, "transforms": [augment]},
            "valid": {"source": {**source, "records": 20, "seed": 1}, "batch_size": 8},
            "test": {"source": {**source, "records": 31, "seed": 2}, "batch_size": 8},
        },
        "wing": "numpy",
        "steps": 13,
        "seed": 3,
        "log_every": 4,
        "evaluate_every": 5,
        "checkpoint": {"every": 3, "keep": None, "best": 1},
    }
    return mapsto.Spec(**{**fields, **changes})


def fit(spec, folder, **options):
    """(run, result) of a fit from the start."""
    run = Run(spec, folder, **options)
    return run, run.fit()


def bits(tree, wing_name: str = "numpy") -> dict[str, bytes | str]:
    """A state tree as bytes by path: equal where every bit is."""
    wing = find_wing(wing_name)
    plain, tensors = flatten(tree, wing.is_tensor)
    found: dict[str, bytes | str] = {"plain": json.dumps(plain)}
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        found[name] = f"{array.dtype}{array.shape}".encode() + array.tobytes()
    return found


def saved(folder, step: int, wing_name: str = "numpy"):
    """The tree of a checkpoint."""
    checkpoints = Checkpoints(folder / "checkpoints", find_wing(wing_name))
    return checkpoints.load(checkpoints.path(step)).tree


def trajectory(folder, step: int, wing_name: str = "numpy") -> dict[str, bytes | str]:
    """All of a checkpoint that decides what comes, as bytes: the program, the random streams, the window, the best."""
    tree = saved(folder, step, wing_name)
    return bits({k: tree[k] for k in ("program", "position", "window", "best", "random")}, wing_name)
