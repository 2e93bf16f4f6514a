"""Values made of tensors, given by one rank to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class _Announced:
    """Shape and type of a tensor that the stage before will send."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def shared(value: Any, source: int, group: dist.ProcessGroup, device: torch.device) -> Any:
    """The value of the rank `source` (of the world) on every rank of the group: nested containers of tensors and others."""
    mine = dist.get_rank() == source
    told = [pytree.tree_map_only(Tensor, lambda t: _Announced(tuple(t.shape), t.dtype), value) if mine else None]
    dist.broadcast_object_list(told, source, group, torch.device("cpu"))
    tensors = iter([leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)] if mine else ())

    def filled(announced: _Announced) -> Tensor:
        tensor = (
            next(tensors).detach().contiguous() if mine else torch.empty(announced.shape, dtype=announced.dtype, device=device)
        )
        dist.broadcast(tensor, source, group)
        return tensor

    return pytree.tree_map_only(_Announced, filled, told[0])
