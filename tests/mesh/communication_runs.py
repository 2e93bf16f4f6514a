"""Runs with a communication saver on ranks: their weights, and those of one that goes on from a checkpoint of theirs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from mesh_programs import Net, records

from mapsto import Run, Spec, use
from mapsto.core.per_rank import PerRank


def _spec(mesh: dict[str, int] | None, saver: Any, steps: int) -> Spec:
    return Spec(
        model=use(Net, dropout=0.1),
        data={
            "train": {"source": records("net", "float32"), "batch_size": 13, "shuffle": True},
            "valid": {"source": records("net", "float32"), "batch_size": 9},
        },
        optimizer=use("adamw", lr=1e-2),
        middleware=[saver],
        mesh=mesh,
        steps=steps,
        checkpoint={"every": 2, "keep": None},
        evaluate_every=2,
        log_every=2,
        device="cpu",
    )


def run(folder: str, mesh: dict[str, int], saver: Any, steps: int) -> dict[str, np.ndarray]:
    """The weights at the end of a run."""
    torch.set_default_dtype(torch.float32)
    made = Run(_spec(mesh, saver, steps), folder)
    made.fit()
    found: dict[str, np.ndarray] = made.program.weights()
    return found


def go_on(folder: str, mesh: dict[str, int], saver: Any, steps: int, checkpoint: int) -> dict[str, np.ndarray]:
    """The weights at the end of the same run, gone on from a checkpoint of its middle."""
    made = Run(_spec(mesh, saver, steps), folder)
    made.fit(resume=True, checkpoint=checkpoint)
    found: dict[str, np.ndarray] = made.program.weights()
    return found


def all_runs(folder: str, savers: dict[str, Any], steps: int, checkpoint: int) -> dict[str, Any]:
    """By saver the weights of a run, of one that went on, and of one that went on without what is each rank's own."""
    found = {}
    for name, saver in savers.items():
        place = str(Path(folder) / name)
        straight = run(place, {"replicate": 2}, saver, steps)
        resumed = go_on(place, {"replicate": 2}, saver, steps, checkpoint)
        with mock.patch.multiple("mapsto.core.per_rank.PerRank", __getattribute__=_forgetful, create=True):
            careless = go_on(place, {"replicate": 2}, saver, steps, checkpoint)
        found[name] = {"straight": straight, "resumed": resumed, "careless": careless}
    return found


def _forgetful(leaf: PerRank, name: str) -> Any:
    """A leaf that holds nothing when a saver looks for its own."""
    reader = sys._getframe(1).f_globals.get("__name__", "")
    return None if name == "value" and "middleware.communication" in reader else object.__getattribute__(leaf, name)
