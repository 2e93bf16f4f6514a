"""Metrics of rankings: `score` of each candidate [queries, candidates] against its relevance (0: none), of the same shape.

The mask tells which candidates there are. Among candidates of equal score those that are relevant come last, so that a model
that tells nothing gains nothing by the order in which candidates happen to stand. Queries without a relevant one do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from ...core.errors import DataError
from ..metric import Array, Metric, Result, Statistics, quotient


class Ranking(Metric):
    """The mean over queries of a score of their candidates, in order. k: how many of them are looked at (None: all)."""

    reads: ClassVar[tuple[str, ...]] = ("score",)
    short = ""

    def __init__(self, k: int | None = 10) -> None:
        self.k = k

    @property
    def name(self) -> str:
        return f"{self.short}@{self.k}" if self.k is not None else self.short

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        score = prediction["score"]
        if score.ndim != 2 or score.shape != target.shape:
            raise DataError(
                f"scores {list(score.shape)} and relevances {list(target.shape)}: [queries, candidates] of both are wanted"
            )
        there = np.ones(score.shape, bool) if mask is None else mask
        relevance = np.where(there, target, 0).astype(np.float64)
        key = np.where(there & ~np.isnan(score), score.astype(np.float64), -np.inf)
        order = np.lexsort((relevance, -key), axis=-1)  # by score, then the less relevant first
        ranked = np.take_along_axis(relevance, order, 1)
        counted = (relevance > 0).any(1)
        found = self.score(ranked[counted], -np.sort(-relevance[counted], 1)) if counted.any() else np.zeros(0)
        return {"sum": np.asarray(found.sum()), "all": np.asarray(int(counted.sum()))}

    def finish(self, totals: Statistics) -> Result:
        return quotient(totals["sum"], totals["all"])

    def score(self, ranked: Array, best: Array) -> Array:
        """The score of each query, of relevances as they are ranked and as they would be at best."""
        raise NotImplementedError


class NDCG(Ranking):
    """Discounted gain over the best that can be had (Jarvelin & Kekalainen 2002). gain: `linear`, or `exponential`: 2^r - 1."""

    short = "ndcg"

    def __init__(self, k: int | None = 10, gain: Literal["linear", "exponential"] = "linear") -> None:
        super().__init__(k)
        self.gain = gain

    def score(self, ranked: Array, best: Array) -> Array:
        discount = 1 / np.log2(np.arange(ranked.shape[1]) + 2.0)
        discount[self.k :] = 0 if self.k is not None else discount[self.k :]
        gains = [np.exp2(r) - 1 if self.gain == "exponential" else r for r in (ranked, best)]
        return np.asarray((gains[0] * discount).sum(1) / (gains[1] * discount).sum(1))


class HitRate(Ranking):
    """The share of queries with a relevant one among the first k."""

    short = "hit_rate"

    def score(self, ranked: Array, best: Array) -> Array:  # noqa: ARG002
        return np.asarray((ranked[:, : self.k] > 0).any(1), float)


class RecallAt(Ranking):
    """The share of the relevant ones that are among the first k."""

    short = "recall"

    def score(self, ranked: Array, best: Array) -> Array:
        return np.asarray((ranked[:, : self.k] > 0).sum(1) / (best > 0).sum(1))


class MRR(Ranking):
    """The mean of 1 / the place of the first relevant one, 0 where it is not among the first k."""

    short = "mrr"

    def __init__(self, k: int | None = None) -> None:
        super().__init__(k)

    def score(self, ranked: Array, best: Array) -> Array:  # noqa: ARG002
        relevant = ranked[:, : self.k] > 0
        return np.where(relevant.any(1), 1 / (1.0 + relevant.argmax(1)), 0.0)


class MAPAt(Ranking):
    """The mean of the precision at each relevant one among the first k, over how many there could be."""

    short = "map"

    def score(self, ranked: Array, best: Array) -> Array:
        relevant = ranked[:, : self.k] > 0
        precision = np.cumsum(relevant, 1) / np.arange(1, relevant.shape[1] + 1)
        return np.asarray((precision * relevant).sum(1) / np.minimum((best > 0).sum(1), relevant.shape[1]))
