"""Runs on ranks of which one is slow, in its data, in its passes, or in what it computes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import mapsto
from mapsto.engine import stall


class Points:
    """Records that are computed from their index."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, indices):
        indices = np.asarray(indices)
        inputs = np.stack([np.sin(indices * (k + 1)) for k in range(6)], 1).astype("float32")
        return {"input": inputs, "target": indices % 3}


class Slow(nn.Module):
    """A net that is slow on one rank: it waits, or it computes for so many seconds."""

    def __init__(self, waits: float = 0.0, computes: float = 0.0, rank: int = 1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
        self.waits, self.computes, self.rank = waits, computes, rank

    def forward(self, x):
        if self.training and dist.get_rank() == self.rank:
            time.sleep(self.waits)
            ends = time.thread_time() + self.computes
            while time.thread_time() < ends:
                pass
        return self.net(x)


def late(batch, seconds: float = 0.03, rank: int = 1):
    """A transform that is slow on one rank."""
    if dist.get_rank() == rank:
        time.sleep(seconds)
    return batch


BATCHES: list[int] = []


def hanging(batch, folder: str):
    """A transform that waits on rank 1, some steps on, until both ranks have said where they stand, and then gives up."""
    BATCHES.append(1)
    if len(BATCHES) < 12:
        return batch
    files = [Path(folder) / "logs" / "stalls" / f"rank-{rank}.txt" for rank in (0, 1)]
    ends = time.monotonic() + 60
    while dist.get_rank() == 1 and not all(file.is_file() and file.read_text().count("File ") > 3 for file in files):
        assert time.monotonic() < ends
        time.sleep(0.05)  # the line that a doctor must name
    if dist.get_rank() == 1:
        time.sleep(0.3)
        raise RuntimeError("nobody came")
    return batch


FAULTS = {
    "healthy": {},
    "data": {"transforms": [{"use": "slow_ranks:late", "seconds": 0.06}]},
    "busy": {"model": {"waits": 0.06}},
    "cpu": {"model": {"computes": 0.03}, "mesh": {"shard": -1}},
}


def spec(fault: str) -> mapsto.Spec:
    told = FAULTS[fault]
    train = {"source": "slow_ranks:Points", "batch_size": 16, "shuffle": True, "transforms": told.get("transforms", [])}
    return mapsto.Spec(
        model={"use": "slow_ranks:Slow", **told.get("model", {})},
        data={"train": train},
        optimizer={"use": "adamw", "lr": 0.01},
        mesh=told.get("mesh", {"replicate": -1}),
        steps=45,
        log_every=5,
        checkpoint={"every": 45, "keep": None, "best": 0},
    )


def train(folder: str) -> None:
    """All of them, on this rank."""
    torch.manual_seed(0)
    for fault in FAULTS:
        mapsto.Run(spec(fault), Path(folder) / fault).fit()


def hang(folder: str) -> None:
    """A run whose rank 1 does not come to some step."""
    stall.LIMIT = 1.0
    transform = {"use": "slow_ranks:hanging", "folder": folder}
    made = spec("healthy").override(f"data.train.transforms={json.dumps([transform])}")
    mapsto.Run(made, folder).fit()
