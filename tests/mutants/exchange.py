"""Middleware that exchanges between replicas with a planted bug; the twins are our own."""

from __future__ import annotations

import functools

import torch

import mapsto
from mapsto.torch.mesh.sent import sent
from mapsto.torch.middleware.communication import CompressGradients
from mapsto.torch.middleware.communication_local import LocalSGD
from mapsto.torch.middleware.communication_lowrank import PowerSGD

from . import Mutant


class CountsReplicasAlike(LocalSGD):
    def _means(self, total=None):
        for metrics in self.window:
            metrics["loss"] = (metrics["loss"][0], 1.0)
        return super()._means(2.0 * torch.ones((), dtype=torch.float64) * len(self.window))


class Forgets(PowerSGD):
    """Without error feedback."""

    def _sum(self, share, weight):
        super()._sum(share, weight)
        for matrix in self.matrices:
            matrix.error.zero_()


class AddsItsOwn(PowerSGD):
    """What was not sent is added at once, on the replica that has it."""

    def _sum(self, share, weight):
        super()._sum(share, weight)
        for matrix in self.matrices:
            matrix.parameter.grad.add_(matrix.error)
            matrix.error.zero_()


class CastsAfterwards(CompressGradients):
    def setup(self, builder):
        builder.buckets = ("compress_gradients", functools.partial(_cast_afterwards, self.dtype))


def _cast_afterwards(dtype, bucket, ranks):
    return sent.begin_sum(bucket, ranks).then(lambda done: bucket.copy_(done.value().to(dtype)))


THIN = {"rank": 1, "min_compression_rate": 1.0}
EXACT = {"rank": 99, "min_compression_rate": 0.0}
mapsto.example(CountsReplicasAlike, args={"every": 2}, exact={"every": 1}, drift=0.15)
mapsto.example(Forgets, args=THIN, exact=EXACT, drift=0.5)
mapsto.example(AddsItsOwn, args=THIN, exact=EXACT, drift=0.5)
mapsto.example(CastsAfterwards, args={"dtype": "bf16"}, exact={"dtype": "bf16"}, drift=0.01)

MUTANTS = [
    Mutant(
        law="middleware.exact_exchange",
        name="replicas count alike",
        bug=CountsReplicasAlike,
        twin=LocalSGD,
        models="an average of replicas with unequal numbers of tokens",
    ),
    Mutant(
        law="middleware.bounded_drift",
        name="no error feedback",
        bug=Forgets,
        twin=PowerSGD,
        models="use_error_feedback=False",
    ),
    Mutant(
        law="middleware.bounded_drift",
        name="replicas end apart",
        bug=AddsItsOwn,
        twin=LocalSGD,
        models="a residual that is applied where it arose",
    ),
    Mutant(
        law="middleware.sends_less",
        name="a cast after the sum",
        bug=CastsAfterwards,
        twin=CompressGradients,
        models="compression after the all-reduce",
    ),
]
