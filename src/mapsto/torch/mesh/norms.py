"""Norms over tensors of which ranks hold parts: every element counts once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from .one import local
from .sent import sent


def norm(tensors: Sequence[Tensor], p: float) -> Tensor:
    """The p-norm over all elements (p: above 0, `inf` for the largest), on the device, the same on all ranks."""
    groups: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        spread = (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else None
        groups.setdefault(spread, []).append(local(tensor))
    if set(groups) == {None}:
        return torch.nn.utils.get_total_norm(groups[None], p)
    found = [_powers(held, p, spread) for spread, held in groups.items()]
    if math.isinf(p):
        return torch.stack(found).max()
    return torch.stack(found).sum() ** (1.0 / p)


def _powers(held: Sequence[Tensor], p: float, spread: Any) -> Tensor:
    """The p-th power of the norm of tensors that are spread alike (or, for `inf`, the largest element)."""
    filled = [t for t in held if t.numel()]
    own = torch.nn.utils.get_total_norm(filled, p) if filled else held[0].new_zeros(())
    value = own if math.isinf(p) else own**p
    if spread is None:
        return value
    mesh, placements = spread
    for axis, placement in enumerate(placements):
        if not placement.is_replicate() and mesh.size(axis) > 1:  # cut twice along one axis it is no `Shard`, and is one
            value = value.clone()
            sent.all_reduce(value, dist.ReduceOp.MAX if math.isinf(p) else dist.ReduceOp.SUM, mesh.get_group(axis))
    return value
