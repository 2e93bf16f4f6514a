"""Gradients of whole copies summed over ranks when all passes of a step are done: for what DDP cannot watch.

These are the stages of a pipeline, and models with sparse gradients (DDP knows those by the class of the module that holds
them, which `replicate` hides from it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...core.errors import SpecError
from .one import local
from .sent import sent


class Summed:
    """Sums the gradients of named parameters over a group, in buckets of `bucket_mb`; `factor` is 1: what is left is the sum.

    unused: parameters may have no gradient on some ranks, or on all, where they keep none (costs one reading of the device);
    sparse: names of those whose gradients are sparse, which travel as the rows that were looked up.
    """

    factor = 1.0

    def __init__(
        self,
        named: Sequence[tuple[str, nn.Parameter]],
        group: dist.ProcessGroup,
        *,
        unused: bool,
        bucket_mb: float,
        sparse: Iterable[str] = (),
    ) -> None:
        self.group, self.unused, self.bytes = group, unused, int(bucket_mb * 2**20)
        self.named = [(n, p) for n, p in named if p.requires_grad]
        self.sparse = frozenset(sparse)

    def synchronise(self, wanted: bool) -> None:
        """Nothing: gradients are reduced after the passes, by `reduce`."""

    def count(self) -> None:
        """Nothing: what is sent is counted where it is sent."""

    def reduce(self) -> None:
        """Replace every gradient by its sum over the ranks. Raises SpecError where one is missing and none may be."""
        present = [p.grad is not None for _, p in self.named]
        if not all(present):
            if not self.unused:
                missing = [n for (n, _), there in zip(self.named, present, strict=True) if not there]
                raise SpecError(
                    f"mesh: {missing[0]} took no part in this step; where that may be, say mesh.unused_parameters: true"
                )
            for name, parameter in self.named:
                if parameter.grad is None:
                    layout = torch.sparse_coo if name in self.sparse else torch.strided
                    parameter.grad = torch.zeros_like(parameter, layout=layout)
        for name, parameter in self.named:
            if name in self.sparse and parameter.grad is not None:
                parameter.grad = sent.all_reduce(parameter.grad.coalesce(), group=self.group)
        for bucket in self._buckets([local(p.grad) for n, p in self.named if p.grad is not None and n not in self.sparse]):
            flat = torch.cat([g.reshape(-1) for g in bucket])
            sent.all_reduce(flat, group=self.group)
            parts = torch.split(flat, [g.numel() for g in bucket])
            torch._foreach_copy_(bucket, [p.view_as(g) for p, g in zip(parts, bucket, strict=True)])
        if self.unused:
            used = torch.tensor(present, dtype=torch.int32, device=local(self.named[0][1]).device)
            sent.all_reduce(used, dist.ReduceOp.MAX, group=self.group)
            for (_, parameter), there in zip(self.named, used.tolist(), strict=True):
                if not there:
                    parameter.grad = None

    def _buckets(self, gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Buckets of gradients in their order: of one dtype each, and at most `bytes`, unless one alone is larger."""
        bucket: list[Tensor] = []
        size = 0
        for gradient in gradients:
            if gradient.is_sparse:
                raise SpecError("mesh: sparse gradients are summed over ranks of embeddings alone, and not of stages")
            own = gradient.numel() * gradient.element_size()
            if bucket and (gradient.dtype != bucket[0].dtype or size + own > self.bytes):
                yield bucket
                bucket, size = [], 0
            bucket.append(gradient)
            size += own
        if bucket:
            yield bucket
