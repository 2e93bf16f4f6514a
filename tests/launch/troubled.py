"""A small run whose model makes trouble on one rank at one forward pass, and what tests ask about its folder."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mapsto import Run, Spec, use
from mapsto.core.load_spec import load_spec


class Troubled(nn.Module):
    """trouble: `deed:rank:pass`, on the first attempt alone; or with `always:` before it. pause: seconds a pass takes."""

    def __init__(self, trouble: str = "", pause: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))
        self.trouble, self.pause, self.passes = trouble, pause, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        deed, _, place = self.trouble.removeprefix("always:").partition(":")
        first = os.environ.get("MAPSTO_ATTEMPT", "1") == "1" or self.trouble.startswith("always:")
        if deed and first and place == f"{os.environ.get('RANK')}:{self.passes}":
            self.act(deed)
        time.sleep(self.pause)
        return self.layers(x)

    def act(self, deed: str) -> None:
        if deed == "raise":
            raise RuntimeError("planted")
        if deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "diverge":
            torch.distributed.all_gather([torch.ones(3)] * torch.distributed.get_world_size(), torch.ones(3))
        while deed == "loop":
            time.sleep(0.01)


def spec(trouble: str = "", pause: float = 0.0) -> Spec:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(61, 4)).astype("float32")
    source = use("arrays", input=x, target=(x.sum(1) > 0).astype("int64"))
    return Spec(
        name="troubled",
        model=use(Troubled, trouble=trouble, pause=pause),
        data={"train": {"source": source, "batch_size": 8, "shuffle": True}},
        optimizer=use("adamw", lr=0.05),
        mesh={"replicate": -1, "timeout": 3.0},
        micro_shards=4,
        epochs=3,
        device="cpu",
        log_every=1,
        checkpoint={"every": 4},
    )


def tell(folder: str, told: str, *changes: str) -> int:
    """In a fork: the digest of a run's last weights, and which steps it logged, as JSON."""
    path = Path(folder)
    run = Run(load_spec(__file__).override(*changes), path)
    with run.trained("last") as program:
        weights = program.weights()
    digest = hashlib.sha256(b"".join(name.encode() + np.asarray(weights[name]).tobytes() for name in sorted(weights)))
    steps = [r["step"] for r in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if r["name"] == "log"]
    Path(told).write_text(json.dumps({"weights": digest.hexdigest(), "steps": steps, "last": program.position}))
    return 0
