"""Small runs in torch with everything in them that keeps a state or draws."""

from __future__ import annotations

from torch import nn

import mapsto


def net(width: int = 4, hidden: int = 8) -> nn.Module:
    """Dropout, and running statistics beside the weights."""
    return nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.4), nn.Linear(hidden, 3))


def single(batch):
    return {**batch, "input": batch["input"].astype("float32")}


def torch_spec(**changes) -> mapsto.Spec:
    """12 steps, 5 of them an epoch whose last batch is uneven: dropout, shuffling, augmentation, accumulation, averages,
    clipping, noise, mixup, AdamW and a schedule."""
    source = {"use": "runs:Blobs"}
    augment = [{"use": "runs:jitter", "scale": 0.2}, {"use": "torch_runs:single"}]
    fields = {
        "model": {"use": "torch_runs:net"},
        "optimizer": {"use": "adamw", "lr": 0.02},
        "schedule": {"use": "warmup", "steps": 3},
        "middleware": [
            {"use": "ema", "decay": 0.9, "warmup": 5},
            {"use": "clip_norm", "max_norm": 1.0},
            {"use": "gradient_noise", "eta": 0.01},
            {"use": "accumulate", "steps": 3},
            {"use": "mixup", "alpha": 0.3},
        ],
        "data": {
            "train": {"source": {**source, "records": 46}, "batch_size": 10, "shuffle": True, "transforms": augment},
            "valid": {"source": {**source, "records": 20, "seed": 1}, "batch_size": 8, "transforms": augment[1:]},
        },
        "steps": 12,
        "seed": 5,
        "log_every": 5,
        "checkpoint": {"every": 1, "keep": None, "best": 1},
    }
    return mapsto.Spec(**{**fields, **changes})
