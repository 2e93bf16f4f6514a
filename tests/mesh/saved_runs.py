"""Runs on ranks that are saved and gone on with, for the tests of checkpoints; all in float64, so that sums may be compared."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mesh_programs import WIDTH, Net
from torch import Tensor

from mapsto import Spec, use
from mapsto.core.per_rank import PerRank
from mapsto.engine.checkpoint import Checkpoints
from mapsto.engine.run import Run
from mapsto.engine.tree import flatten
from mapsto.engine.wing import find_wing

SHARDS = 12
"""Micro-shards: of 1, 2, 3 and 4 ranks each has as many, so dropout is the same on all meshes."""


def net() -> torch.nn.Module:
    return Net(dropout=0.2).double()


class Points:
    """Records in float64."""

    vectorised = True

    def __init__(self, records: int = 41, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.input, self.target = rng.normal(size=(records, WIDTH)), rng.integers(0, 3, records)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, indices: Any) -> dict[str, Any]:
        return {"input": self.input[indices], "target": self.target[indices]}


class Feedback:
    """Adds up what each rank's own gradient is: state of which no rank has another's."""

    def __init__(self, afresh: bool = False) -> None:
        self.afresh = afresh
        self.kept: Tensor | None = None
        self.began_afresh = False

    def begin(self, state: Any) -> None:
        self.kept = torch.full((3,), float(state.mesh.rank), dtype=torch.float64)

    def update(self, inner: Any) -> Any:
        def outer(state: Any, metrics: Any) -> Any:
            self.kept = self.kept * 2 + state.mesh.rank
            return inner(state, metrics)

        return outer

    def state_dict(self) -> dict[str, Any]:
        return {"kept": PerRank(self.kept, self.afresh)}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        self.began_afresh = tree["kept"].value is None
        if not self.began_afresh:
            self.kept = tree["kept"].value


def spec(mesh: Any = None, **changes: Any) -> Spec:
    """6 steps, 4 an epoch: dropout, shuffling, AdamW, averages, clipping, a schedule; a checkpoint after each."""
    source = {"use": "saved_runs:Points"}
    fields: dict[str, Any] = {
        "model": use("saved_runs:net"),
        "optimizer": use("adamw", lr=0.01),
        "schedule": use("warmup", steps=3),
        "middleware": [use("ema", decay=0.9), use("clip_norm", max_norm=0.5)],
        "data": {
            "train": {"source": source, "batch_size": 13, "shuffle": True},
            "valid": {"source": {**source, "records": 11, "seed": 1}, "batch_size": 5},
        },
        "mesh": mesh,
        "micro_shards": SHARDS,
        "steps": 6,
        "device": "cpu",
        "log_every": 1,
        "checkpoint": {"every": 1, "keep": None},
    }
    return Spec(**{**fields, **changes})


def train(folder: Path, changes: dict[str, Any], resume: bool = False, until: int | None = None) -> dict[str, Any]:
    """Train (or go on) on this rank until a step; what it has in the end."""

    def stop(event: Any) -> None:
        if event.name == "log" and event.step == until:
            event.run.ask_to_stop("far enough")

    run = Run(spec(**changes), folder, observers=[stop])
    result = run.fit(resume=resume)
    return {
        "reason": result.reason,
        "metrics": dict(result.metrics),
        "bits": bits(run.program.state_tree()),
        "layout": {n: tuple(p.to_local().shape) for n, p in run.program.model.named_parameters() if hasattr(p, "to_local")},
        "afresh": [m.began_afresh for m in run.program.middleware.values() if isinstance(m, Feedback)],
    }


def bits(tree: Any) -> str:
    """A hash of what this process holds of a state."""
    plain, tensors = flatten(tree, find_wing("torch").is_tensor)
    found = hashlib.sha256(repr(plain).encode())
    for tensor in tensors.values():
        found.update(getattr(tensor, "_local_tensor", tensor).detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def saved(folder: Path, step: int) -> dict[str, np.ndarray[Any, Any]]:
    """The whole tensors of a checkpoint's program, read in one process."""
    store = Checkpoints(folder / "checkpoints", find_wing("torch"))
    tree = store.load(store.path(step), looking=True).tree["program"]
    return {name: tensor.numpy() for name, tensor in flatten(tree, find_wing("torch").is_tensor)[1].items()}
