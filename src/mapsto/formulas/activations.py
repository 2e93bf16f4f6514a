"""Activations: x -> y, element by element unless an axis is said, on float64 arrays of any shape."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def relu(x: Array) -> Array:
    """max(x, 0) (Nair & Hinton 2010)."""
    return np.maximum(x, 0.0)


def leaky_relu(x: Array, *, negative_slope: float = 0.01) -> Array:
    """x where it is positive, else its slope times it (Maas et al. 2013)."""
    return np.where(x > 0, x, negative_slope * x)


def elu(x: Array, *, alpha: float = 1.0) -> Array:
    """x, or alpha (e^x - 1) below zero (Clevert et al. 2016)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def selu(x: Array) -> Array:
    """An ELU scaled so that mean 0 and variance 1 are its fixed point (Klambauer et al. 2017, eq. 14)."""
    scale, alpha = 1.0507009873554804934, 1.6732632423543772848
    return scale * elu(x, alpha=alpha)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow on either side."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def softplus(x: Array, *, beta: float = 1.0) -> Array:
    """log(1 + e^(beta x)) / beta."""
    return np.logaddexp(0.0, beta * x) / beta


def silu(x: Array) -> Array:
    """x sigmoid(x) (Elfwing et al. 2018; Ramachandran et al. 2017)."""
    return x * sigmoid(x)


def mish(x: Array) -> Array:
    """x tanh(softplus(x)) (Misra 2020)."""
    return x * np.tanh(softplus(x))


def gelu(x: Array) -> Array:
    """x times the normal distribution's share below x (Hendrycks & Gimpel 2016)."""
    return np.asarray(x * 0.5 * (1.0 + _erf(x / math.sqrt(2.0))))


def gelu_tanh(x: Array) -> Array:
    """Hendrycks & Gimpel's approximation, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def hard_sigmoid(x: Array) -> Array:
    """clip(x / 6 + 1 / 2, 0, 1) (Howard et al. 2019)."""
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


def hard_swish(x: Array) -> Array:
    """x clip(x / 6 + 1 / 2, 0, 1) (Howard et al. 2019)."""
    return x * hard_sigmoid(x)


def softmax(x: Array, *, axis: int = -1) -> Array:
    """e^x over its sum along the axis, shifted by the largest so that nothing overflows."""
    e = np.exp(x - np.max(x, axis, keepdims=True))
    return np.asarray(e / np.sum(e, axis, keepdims=True))


def log_softmax(x: Array, *, axis: int = -1) -> Array:
    """The logarithm of `softmax`, exact where it underflows."""
    shifted = x - np.max(x, axis, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis, keepdims=True)))


def glu(x: Array, *, axis: int = -1) -> Array:
    """The first half of the axis times the sigmoid of the second (Dauphin et al. 2017)."""
    a, b = np.split(x, 2, axis)
    return np.asarray(a * sigmoid(b))
