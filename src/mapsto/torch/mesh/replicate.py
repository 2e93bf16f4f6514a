"""The axis `replicate`: every rank holds the whole model; gradients are reduced while backward still runs (DDP)."""

from __future__ import annotations

import inspect
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed._composable.replicate import replicate
from torch.nn.parallel import DistributedDataParallel as DDP

_SYNC = "forward_sync_buffers" if "forward_sync_buffers" in inspect.signature(DDP.__init__).parameters else "broadcast_buffers"
"""The argument for buffers, which no rank gives to others: each computes the same (torch 2.13 renamed it)."""


class Replicated:
    """A model under DistributedDataParallel in place: names and attributes stay what they were.

    DDP averages over ranks, so what it leaves times `factor` is the sum.
    """

    def __init__(self, model: nn.Module, group: dist.ProcessGroup, options: Any) -> None:
        self.model: Any = model
        self.factor = float(dist.get_world_size(group))
        if not any(p.requires_grad for p in model.parameters()):
            return
        given: dict[str, Any] = {_SYNC: False, "bucket_cap_mb": options.bucket_mb}
        replicate(
            model,
            process_group=group,
            gradient_as_bucket_view=True,
            find_unused_parameters=options.unused_parameters,
            **given,
        )

    def synchronise(self, wanted: bool) -> None:
        """Whether the next forward and backward pass reduces gradients."""
        self.model.set_requires_gradient_sync(wanted)
