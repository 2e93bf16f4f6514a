"""A norm whose bits do not depend on which rank holds which rows: row by row, then over all rows in one order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from .group import all_gather

LANES = 64
"""Elements of which vectorised loops take a whole number at once."""


def norm(tensors: Sequence[Tensor], p: float) -> Tensor:
    """The p-norm over all elements in float64, as a scalar of the tensors' own dtype (p: above 0, `inf` for the largest)."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    dtype = dtype.to_real() if dtype.is_complex else dtype
    rows = [_rows(t._local_tensor if isinstance(t, DTensor) else t, p) for t in tensors]
    every = torch.cat(_gathered(rows, tensors))
    if math.isinf(p):
        return every.max().to(dtype)
    return (every.sum() ** (1.0 / p)).to(dtype)


def _rows(tensor: Tensor, p: float) -> Tensor:
    """The sums of the p-th powers along all axes but the first (or the largest, for `inf`): [rows] in float64."""
    size = tensor.abs() if tensor.is_complex() else tensor
    flat = size.detach().double().reshape(size.shape[0] if size.dim() else 1, -1 if size.numel() else 0)
    if math.isinf(p):
        return flat.abs().amax(1) if flat.numel() else flat.new_zeros(flat.shape[0])
    if p == 2:
        return (flat * flat).sum(1)
    return (flat.abs() if p == 1 else _powers(flat, p)).sum(1)


def _powers(flat: Tensor, p: float) -> Tensor:
    """|x|^p, padded: vectorised loops compute the last few elements by other code, whose last bits differ."""
    count = flat.numel()
    padded = flat.new_zeros(-(-count // LANES) * LANES)
    padded[:count] = flat.reshape(-1).abs()
    return (padded**p)[:count].view_as(flat)


def _gathered(rows: list[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of those that are sharded along the first axis, the rows of all ranks: one all-gather for all of them."""
    spread = [i for i, t in enumerate(tensors) if isinstance(t, DTensor) and isinstance(t.placements[0], Shard)]
    if not spread:
        return rows
    mesh = tensors[spread[0]].device_mesh  # type: ignore[attr-defined]
    size = mesh.size()
    most = [-(-tensors[i].shape[0] // size) for i in spread]
    own = torch.cat([torch.cat([rows[i], rows[i].new_zeros(m - len(rows[i]))]) for i, m in zip(spread, most, strict=True)])
    every = all_gather(own, mesh.get_group())
    for i, parts in zip(spread, torch.split(every, most, dim=1), strict=True):
        rows[i] = parts.reshape(-1)[: tensors[i].shape[0]]
    return rows
