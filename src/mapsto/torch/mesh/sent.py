"""What this process hands to collectives, counted in one place.

The payload of a collective is the whole of what it moves, on one rank: what is reduced or scattered, or what is gathered
(the convention of `mapsto plan`). What a transport makes of it differs: a ring all-reduce of n bytes over R ranks
sends 2 n (R - 1) / R from each.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Sent:
    """A counter of payload bytes that only grows: who wants those of a while takes the difference."""

    def __init__(self) -> None:
        self.bytes = 0

    def count(self, tensor: Tensor) -> None:
        """Add the size of one whole payload."""
        self.bytes += tensor.nbytes if not tensor.is_sparse else tensor._values().nbytes + tensor._indices().nbytes

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM, group: dist.ProcessGroup | None = None) -> Tensor:
        """Reduced in place over a group, when it returns."""
        self.count(tensor)
        dist.all_reduce(tensor, op, group=group)
        return tensor

    def begin_sum(self, tensor: Tensor, group: dist.ProcessGroup | None) -> torch.futures.Future[Tensor]:
        """The sum over a group, to come; in the same memory."""
        self.count(tensor)
        work: Any = dist.all_reduce(tensor, group=group, async_op=True)
        found: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
        return found


sent = Sent()
"""That of this process."""
