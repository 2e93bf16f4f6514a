"""The axis `replicate`: every rank holds the whole model; gradients are reduced while backward still runs (DDP)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable.replicate import replicate
from torch.nn.parallel import DistributedDataParallel as DDP

from .sent import sent

_SYNC = "forward_sync_buffers" if "forward_sync_buffers" in inspect.signature(DDP.__init__).parameters else "broadcast_buffers"
"""The argument for buffers, which no rank gives to others: each computes the same (torch 2.13 renamed it)."""


Summed = Callable[[Tensor, dist.ProcessGroup], "torch.futures.Future[Tensor]"]
"""A bucket of gradients of this rank, and the ranks -> the sum over them, to come; it may use the bucket's memory."""


class Replicated:
    """A model under DistributedDataParallel in place: names and attributes stay what they were.

    DDP averages over ranks, so what it leaves times `factor` is the sum; where `summed` is given, that makes the sum.
    """

    def __init__(self, model: nn.Module, group: dist.ProcessGroup, options: Any, summed: Summed | None = None) -> None:
        self.model: Any = model
        self.factor = float(dist.get_world_size(group)) if summed is None else 1.0
        trained = [p for p in model.parameters() if p.requires_grad]
        self.payload = sum(p.nbytes for p in trained) if summed is None else 0
        if options.unused_parameters:
            self.payload += 4 * len(trained)  # which of them were used on some rank
        if not trained:
            return
        given: dict[str, Any] = {_SYNC: False, "bucket_cap_mb": options.bucket_mb}
        replicate(
            model,
            process_group=group,
            gradient_as_bucket_view=True,
            find_unused_parameters=options.unused_parameters,
            **given,
        )
        if summed is not None:
            hooked: Any = model
            hooked.register_comm_hook(group, lambda ranks, bucket: summed(bucket.buffer(), ranks))

    def synchronise(self, wanted: bool) -> None:
        """Whether the next forward and backward pass reduces gradients."""
        self.model.set_requires_gradient_sync(wanted)

    def count(self) -> None:
        """A pass reduced what DDP reduces by itself: every bucket once."""
        sent.bytes += self.payload
