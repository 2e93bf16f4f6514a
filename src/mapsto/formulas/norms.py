"""Normalisation layers on float64 arrays, in training: statistics are those of the input. eps stands beneath the root."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _normalised(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """Mean 0 and variance 1 (of the population, n and not n - 1) along the axes."""
    mean = np.mean(x, axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(np.mean((x - mean) ** 2, axes, keepdims=True) + eps))


def _affine(y: Array, weight: Array | None, bias: Array | None, axis: int) -> Array:
    """y scaled and shifted by a number for each index of the axis."""
    shape = [1] * y.ndim
    shape[axis] = -1
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, *, axes: int = 1, eps: float = 1e-5) -> Array:
    """Ba et al. 2016: over the last `axes` axes of each record; weight and bias have their shape."""
    y = _normalised(x, tuple(range(x.ndim - axes, x.ndim)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def rms_norm(x: Array, weight: Array | None = None, *, axes: int = 1, eps: float = 1e-6) -> Array:
    """Zhang & Sennrich 2019: x over the root of its mean square, along the last `axes` axes."""
    over = tuple(range(x.ndim - axes, x.ndim))
    y = np.asarray(x / np.sqrt(np.mean(x * x, over, keepdims=True) + eps))
    return y if weight is None else y * weight


def batch_norm(x: Array, weight: Array | None = None, bias: Array | None = None, *, axis: int = 1, eps: float = 1e-5) -> Array:
    """Ioffe & Szegedy 2015, algorithm 1: each index of `axis` over all others."""
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    return _affine(_normalised(x, others, eps), weight, bias, axis)


def running(kept: Array, seen: Array, *, momentum: float = 0.1) -> Array:
    """What a batch norm keeps for evaluation: `momentum` is the share of the new value (1 - it is that of Keras and Flax).

    The variance that is `seen` is unbiased (n - 1) in PyTorch and the population's (n) in Keras and Flax.
    """
    return (1 - momentum) * kept + momentum * seen


def group_norm(
    x: Array, groups: int, weight: Array | None = None, bias: Array | None = None, *, axis: int = 1, eps: float = 1e-5
) -> Array:
    """Wu & He 2018: the indices of `axis` in groups of neighbours, each group of a record by itself."""
    moved = np.moveaxis(x, axis, 1)
    parts = moved.reshape(moved.shape[0], groups, -1)
    y = np.moveaxis(_normalised(parts, (2,), eps).reshape(moved.shape), 1, axis)
    return _affine(y, weight, bias, axis)


def instance_norm(x: Array, *, axis: int = 1, eps: float = 1e-5) -> Array:
    """Ulyanov et al. 2016: each index of `axis` of each record by itself."""
    return group_norm(x, x.shape[axis], axis=axis, eps=eps)
