"""Losses: (prediction, target) -> a loss for each record or element, unreduced, on float64 arrays (or whole-number targets).

Their sum over what counts is a loss's total in mapsto, and how many there are its weight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .activations import log_softmax, sigmoid

Array = NDArray[np.float64]
Whole = NDArray[np.int64]


def cross_entropy(logits: Array, target: Whole, *, label_smoothing: float = 0.0) -> Array:
    """-log softmax(logits)[target] over the last axis; smoothed, a share of the target is spread evenly (Szegedy et al. 2016).

    logits [..., C], target [...]: one loss for each target.
    """
    log_p = log_softmax(logits)
    hit = np.take_along_axis(log_p, target[..., None], -1)[..., 0]
    return np.asarray(-(1 - label_smoothing) * hit - label_smoothing * np.mean(log_p, -1))


def binary_cross_entropy(logits: Array, target: Array) -> Array:
    """-t log s - (1 - t) log(1 - s) with s = sigmoid(logit), for each element."""
    return np.logaddexp(0.0, logits) - logits * target


def focal(logits: Array, target: Whole, *, gamma: float = 2.0) -> Array:
    """Cross-entropy times (1 - p)^gamma, p being the target's probability (Lin et al. 2017, eq. 4)."""
    loss = cross_entropy(logits, target)
    return np.asarray(-np.expm1(-loss)) ** gamma * loss


def sigmoid_focal(logits: Array, target: Array, *, gamma: float = 2.0, alpha: float = 0.25) -> Array:
    """Lin et al. 2017, eq. 5, for each logit: positives weigh alpha, negatives 1 - alpha."""
    s = sigmoid(logits)
    right = s * target + (1 - s) * (1 - target)
    weight = alpha * target + (1 - alpha) * (1 - target)
    return weight * (1 - right) ** gamma * binary_cross_entropy(logits, target)


def squared_error(prediction: Array, target: Array) -> Array:
    """(p - t)^2."""
    return np.asarray((prediction - target) ** 2)


def absolute_error(prediction: Array, target: Array) -> Array:
    """|p - t|."""
    return np.abs(prediction - target)


def huber(prediction: Array, target: Array, *, delta: float = 1.0) -> Array:
    """Half the square up to delta, then delta (|d| - delta / 2) (Huber 1964)."""
    d = np.abs(prediction - target)
    return np.where(d <= delta, d * d / 2, delta * (d - delta / 2))


def quantile(prediction: Array, target: Array, *, q: float) -> Array:
    """q (t - p) where the prediction is below, (1 - q)(p - t) above (Koenker & Bassett 1978)."""
    d = target - prediction
    return np.maximum(q * d, (q - 1) * d)


def gaussian(mean: Array, target: Array, variance: Array, *, eps: float = 1e-6) -> Array:
    """(log v + (t - m)^2 / v) / 2, the variance being at least eps; without the constant log(2 pi) / 2 (Nix & Weigend 1994)."""
    v = np.maximum(variance, eps)
    return np.asarray(0.5 * (np.log(v) + (target - mean) ** 2 / v))


def poisson(log_rate: Array, target: Array) -> Array:
    """e^x - t x, without log t!."""
    return np.exp(log_rate) - target * log_rate


def divergence(log_q: Array, p: Array) -> Array:
    """p (log p - log q) for each element, zero where p is (Kullback & Leibler 1951)."""
    return np.asarray(np.where(p > 0, p * (np.log(np.where(p > 0, p, 1.0)) - log_q), 0.0))


def hinge(score: Array, target: Array, *, margin: float = 1.0) -> Array:
    """max(0, margin - t score) for targets of 1 and -1 (Cortes & Vapnik 1995)."""
    return np.maximum(0.0, margin - target * score)


def cosine(a: Array, b: Array, target: Array, *, margin: float = 0.0) -> Array:
    """1 - cos(a, b) for pairs (target 1), max(0, cos - margin) for others (-1), over the last axis."""
    similar = np.sum(a * b, -1) / np.sqrt(np.sum(a * a, -1) * np.sum(b * b, -1))
    return np.asarray(np.where(target > 0, 1 - similar, np.maximum(0.0, similar - margin)))


def triplet(anchor: Array, positive: Array, negative: Array, *, margin: float = 1.0, eps: float = 1e-6) -> Array:
    """max(0, |a - p| - |a - n| + margin) over the last axis (Schroff et al. 2015, with distances and not their squares).

    eps is added to each difference, as PyTorch's pairwise distance does.
    """
    near, far = (np.sqrt(np.sum((anchor - x + eps) ** 2, -1)) for x in (positive, negative))
    return np.asarray(np.maximum(0.0, near - far + margin))
