"""How the attention kernel of the CPU is shared by ranks: torch knows it of the kernels of GPUs only."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

Placed = tuple[list[Any], list[Any]]


@functools.cache
def share_attention() -> None:
    """Register that heads [axis 1] and records [axis 0] of scaled dot-product attention are each other's business."""
    aten = torch.ops.aten
    forward = aten._scaled_dot_product_flash_attention_for_cpu
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
    if forward.default in _known():
        return

    def shared(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> list[Placed]:  # noqa: ARG001
        return [([p] * 2, [p] * 3 + [None] * len(args)) for p in (Replicate(), Shard(0), Shard(1))]

    def shared_back(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, *args: Any, **kwargs: Any) -> list[Placed]:  # noqa: ARG001
        return [([p] * 3, [p] * 6 + [None] * len(args)) for p in (Replicate(), Shard(0), Shard(1))]

    register_sharding(forward.default)(shared)
    register_sharding(backward.default)(shared_back)


def _known() -> set[Any]:
    """The operators whose sharding torch knows."""
    from torch.distributed.tensor import DTensor

    propagator: Any = DTensor._op_dispatcher.sharding_propagator
    return {*propagator.op_strategy_funcs, *getattr(propagator, "op_single_dim_strategy_funcs", {})}
