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

from ...core.errors import SpecError
from ..losses import Weight
from ..mappings import Batch, Loss
from ..state import State
from .sent import sent

_SYNC = "forward_sync_buffers" if "forward_sync_buffers" in inspect.signature(DDP.__init__).parameters else "broadcast_buffers"
"""The argument for buffers, which no rank gives to others: each computes the same (torch 2.13 renamed it)."""


Summed = Callable[[Tensor, dist.ProcessGroup], "torch.futures.Future[Tensor]"]
"""A bucket of gradients of this rank, and the ranks -> the sum over them, to come; it may use the bucket's memory."""


class _Pass(nn.Module):
    """What DDP takes for the model: its forward is a whole pass, so that it sees all of what the task does with the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        return compute()


class Replicated:
    """The passes of a model under DistributedDataParallel; the model stays what it was.

    DDP reduces what is computed within the forward that it watches. That of the model would leave out what a task does with its
    parts (`model.encoder(x)`), whose gradients were then summed over no ranks, so a pass is what it watches (`hooked`).
    DDP averages over ranks, so what it leaves times `factor` is the sum; where `summed` is given, that makes the sum.
    """

    def __init__(self, model: nn.Module, group: dist.ProcessGroup, options: Any, summed: Summed | None = None) -> None:
        self.watched: Any = _Pass(model)
        self.factor = float(dist.get_world_size(group)) if summed is None else 1.0
        trained = [p for p in model.parameters() if p.requires_grad]
        self.unused = options.unused_parameters
        self.payload = sum(p.nbytes for p in trained) if summed is None else 0
        if options.unused_parameters:
            self.payload += 4 * len(trained)  # which of them were used on some rank
        if not trained:
            return
        given: dict[str, Any] = {_SYNC: False, "bucket_cap_mb": options.bucket_mb}
        replicate(
            self.watched,
            process_group=group,
            gradient_as_bucket_view=True,
            find_unused_parameters=options.unused_parameters,
            **given,
        )
        if summed is not None:
            hooked: Any = self.watched
            hooked.register_comm_hook(group, lambda ranks, bucket: summed(bucket.buffer(), ranks))

    def hooked(self, loss: Loss) -> Loss:
        """The loss as DDP watches it: its graph is searched from the total for what took part. Raises SpecError
        where nothing did."""
        found: list[tuple[Tensor, Weight, Any]] = []

        def watched(state: State, batch: Batch) -> tuple[Tensor, Weight, Any]:
            def compute() -> Tensor:
                found.append(loss(state, batch))
                return found[0][0]

            try:
                total = self.watched(compute)
                _, weight, outputs = found[0]
                if total.grad_fn is None and torch.is_grad_enabled() and not self.unused:
                    raise SpecError(
                        "mesh.replicate: the loss of a pass depends on no parameter, and other ranks wait for its gradients: "
                        "make the same passes whatever the records, or say mesh.unused_parameters: true"
                    )
                return total, weight, outputs
            finally:
                found.clear()

        return watched

    def synchronise(self, wanted: bool) -> None:
        """Whether the next forward and backward pass reduces gradients."""
        self.watched.set_requires_gradient_sync(wanted)

    def count(self) -> None:
        """A pass reduced what DDP reduces by itself: every bucket once."""
        sent.bytes += self.payload
