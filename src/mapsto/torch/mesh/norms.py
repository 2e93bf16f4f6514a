"""Norms over tensors of which ranks hold parts: every element counts once, and what is whole has one order of sums.

The norm of all is the norm of the tensors' own norms, in the order of the optimizer's parameters. A tensor that lies whole on
one rank has the same norm there as in one process, so that the norm of all has the same bits on the stages of a pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from .sent import sent


def norm(tensors: Sequence[Tensor], p: float) -> Tensor:
    """The p-norm over all elements (p: above 0, `inf` for the largest), on the device, the same on all ranks."""
    found = each(tensors, p)
    total: Tensor = torch.linalg.vector_norm(torch.stack([value.to(found[0].device) for value in found]), p)
    return total


def each(tensors: Sequence[Tensor], p: float) -> list[Tensor]:
    """The p-norm of each tensor over all of its elements, wherever these lie: scalars on the device, in the order given."""
    found: list[Tensor] = [torch.empty(0)] * len(tensors)
    alike: dict[Any, list[int]] = {}
    for place, tensor in enumerate(tensors):
        spread = (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else None
        alike.setdefault((tensor.device, tensor.dtype, spread), []).append(place)
    for (_, _, spread), places in alike.items():
        for place, value in zip(places, _over_ranks(_local([tensors[i] for i in places], p), p, spread), strict=True):
            found[place] = value
    return found


def _local(held: Sequence[Tensor], p: float) -> list[Tensor]:
    """The norm of what lies here of each tensor, all of one dtype; 0 of nothing."""
    here = [tensor._local_tensor if isinstance(tensor, DTensor) else tensor for tensor in held]
    filled = [tensor if tensor.numel() else tensor.new_zeros(1) for tensor in here]
    return list(torch._foreach_norm(filled, p))


def _over_ranks(own: list[Tensor], p: float, spread: Any) -> list[Tensor]:
    """Norms of whole tensors of those of their parts; the powers are summed in double precision, all in one exchange."""
    if spread is None:
        return own
    mesh, placements = spread
    cut = [axis for axis, placement in enumerate(placements) if not placement.is_replicate() and mesh.size(axis) > 1]
    if not cut:  # cut twice along one axis it is no `Shard`, and is one
        return own
    largest = math.isinf(p)
    values = torch.stack(own).double() if largest else torch.stack(own).double() ** p
    for axis in cut:
        sent.all_reduce(values, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, mesh.get_group(axis))
    return list((values if largest else values ** (1.0 / p)).to(own[0].dtype))


def over_stages(own: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype], p: float, group: Any, device: Any) -> Tensor:
    """The norm of the norms of tensors that lie on several stages, in the order of one process; the same on all stages.

    own: the norm of each tensor that counts on this stage, by the name of its parameter; dtypes: of the norms of all
    parameters that are trained, in the order of one process. Double precision carries a norm of any of these as it is.
    """
    values = torch.zeros(2, len(dtypes), dtype=torch.float64, device=device)  # the norm, and whether there is one
    if places := [place for place, name in enumerate(dtypes) if name in own]:
        values[0, places] = torch.stack([own[name].double() for name in dtypes if name in own])
        values[1, places] = 1.0
    dist.all_reduce(values, group=group)
    there = values[1].bool().tolist()
    kept = [value.to(dtype) for value, dtype, is_there in zip(values[0], dtypes.values(), there, strict=True) if is_there]
    total: Tensor = torch.linalg.vector_norm(torch.stack(kept), p) if kept else torch.zeros((), device=device)
    return total
