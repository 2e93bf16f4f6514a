"""Gradients that travel between replicas in half precision."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ...core.compose import middleware
from ...core.doors import typed
from ..mesh.sent import sent
from ..state import Builder

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}
LARGEST = 15
"""Sums in float16 stay below 2**15: half of what it holds, so that no rounding on the way reaches infinity."""


@middleware("compress_gradients", provides="replica_exchange")
class CompressGradients:
    """program -> the same program whose replicas sum their gradients as `bf16` or `fp16`, while backward still runs.

    A DDP communication hook: each bucket is cast, summed by one all-reduce of half the bytes, and cast back, so that every
    replica has the same sum. With unit roundoff u (2**-8 for bf16, 2**-11 for fp16) each element of the sum over R replicas
    is off by at most about R u times the sum of the absolute values. For `fp16` each bucket is first scaled by the power
    of two that brings the largest element of all replicas just into range (one more all-reduce of one number a bucket):
    what is small beside it by 2**-29 is lost. NaN and infinity stay what they are. `fp32` is no change.
    Works on mesh.replicate; one process has nothing to send. Raises SpecError.
    """

    @typed
    def __init__(self, dtype: Literal["bf16", "fp16", "fp32"] = "bf16") -> None:
        self.dtype = DTYPES[dtype]

    def setup(self, builder: Builder) -> None:
        if self.dtype is not None:
            builder.buckets = ("compress_gradients", functools.partial(summed, self.dtype))


def summed(dtype: torch.dtype, bucket: Tensor, ranks: dist.ProcessGroup) -> Any:
    """The sum of a bucket of gradients over ranks, computed in a narrower dtype; a future of the bucket itself."""
    if bucket.is_sparse or bucket.is_complex() or bucket.dtype.itemsize <= dtype.itemsize:
        return sent.begin_sum(bucket, ranks)
    if dtype == torch.float16:
        exponent = _exponent(bucket, ranks)
        narrow = torch.ldexp(bucket, exponent).to(dtype)
        return sent.begin_sum(narrow, ranks).then(lambda done: torch.ldexp(bucket.copy_(done.value()), -exponent, out=bucket))
    return sent.begin_sum(bucket.to(dtype), ranks).then(lambda done: bucket.copy_(done.value()))


def _exponent(bucket: Tensor, ranks: dist.ProcessGroup) -> Tensor:
    """The power of two by which no partial sum leaves float16's range, agreed by all ranks; 0 where something is infinite."""
    largest = sent.all_reduce(torch.linalg.vector_norm(bucket, math.inf), dist.ReduceOp.MAX, ranks)
    _, exponent = torch.frexp(largest)
    room = LARGEST - math.ceil(math.log2(dist.get_world_size(ranks)))
    wanted = torch.where(largest > 0, room - exponent, 0).clamp(-100, 100)
    return torch.where(torch.isfinite(largest), wanted, 0)
