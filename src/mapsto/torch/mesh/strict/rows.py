"""A norm whose bits do not depend on which rank holds which rows: row by row, then over all rows in one order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from ..group import all_gather
from ..one import local


def norm(tensors: Sequence[Tensor], p: float) -> Tensor:
    """The p-norm over all elements (p: above 0, `inf` for the largest), on the device, the same bits on any ranks.

    The norm of each row (all axes but the first, along which ranks hold parts) is taken where the row lies, in the tensor's
    dtype or float32; the norm of the rows' norms in float64.
    """
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    own = [rows(local(t), p).double() for t in tensors]
    total: Tensor = torch.linalg.vector_norm(torch.cat(_gathered(own, tensors)), p)
    return total.to(dtype.to_real() if dtype.is_complex else dtype)


def rows(tensor: Tensor, p: float) -> Tensor:
    """The norm of each row: [rows]. A row has the same bits whatever stands beside it."""
    count = tensor.shape[0] if tensor.dim() else 1
    if not tensor.numel():
        return tensor.new_zeros(count)
    flat = tensor.detach().reshape(count, -1)
    wide = torch.float32 if flat.dtype in (torch.float16, torch.bfloat16) else None
    found: Tensor = torch.linalg.vector_norm(flat, p, dim=1, dtype=wide)
    return found


def _gathered(own: list[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of those that are sharded along the first axis, the rows of all ranks: one all-gather for all of them."""
    spread = [i for i, t in enumerate(tensors) if isinstance(t, DTensor) and isinstance(t.placements[0], Shard)]
    if not spread:
        return own
    mesh = tensors[spread[0]].device_mesh  # type: ignore[attr-defined]
    size = mesh.size()
    most = [-(-tensors[i].shape[0] // size) for i in spread]
    padded = torch.cat([torch.cat([own[i], own[i].new_zeros(m - len(own[i]))]) for i, m in zip(spread, most, strict=True)])
    every = all_gather(padded, mesh.get_group())
    for i, parts in zip(spread, torch.split(every, most, dim=1), strict=True):
        own[i] = parts.reshape(-1)[: tensors[i].shape[0]]
    return own
