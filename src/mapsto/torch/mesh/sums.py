"""Metrics of several micro-shards and ranks as those of one batch: one small all-reduce a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..mappings import Metrics
from .sent import sent


def reduced(
    window: Sequence[Metrics],
    group: dist.ProcessGroup | None,
    device: torch.device,
    *,
    attention: bool | Tensor = False,
    counts: bool = True,
) -> tuple[Metrics, Tensor]:
    """(sum, weight) pairs summed, scalars averaged, over micro-shards and the ranks of a group; and how many of these
    request attention, such as to stop. counts: whether this rank's metrics are not another's too. float64 on the device;
    nothing is copied from it.
    """
    names = sorted({name for metrics in window for name in metrics})
    pairs = [name for name in names if type(next(m[name] for m in window if name in m)) is tuple]
    values: list[Any] = []
    for name in names:
        found = [m[name] for m in window if name in m]
        if name in pairs:
            values += [sum(total for total, _ in found), sum(weight for _, weight in found)]
        else:
            values += [sum(found), len(found)]
    if not counts:
        values = [0.0] * len(values)
    vector = packed([*values, attention], device)
    if group is not None:
        sent.all_reduce(vector, group=group)
    metrics: Metrics = {}
    for place, name in enumerate(names):
        total, weight = vector[2 * place], vector[2 * place + 1]
        metrics[name] = (total, weight) if name in pairs else total / weight
    return metrics, vector[-1]


def packed(values: Sequence[Any], device: torch.device) -> Tensor:
    """Scalars of the host and of the device in one vector."""
    vector = torch.tensor([0.0 if isinstance(v, Tensor) else float(v) for v in values], dtype=torch.float64)
    vector = vector.to(device, non_blocking=True)
    places = [i for i, v in enumerate(values) if isinstance(v, Tensor)]
    if places:
        here = torch.stack([values[i].detach().to(device, torch.float64) for i in places])
        vector[torch.tensor(places)] = here
    return vector
