"""Initialisers: the distribution that fresh weights have, as its mean, variance and bounds; most need the fans of a weight.

fan_in, fan_out: how many numbers one output is a sum of, and how many outputs one input reaches. A sample is judged against
the distribution, not against another framework's random stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Distribution:
    """mean and variance; low and high: the bounds of what can be drawn."""

    mean: float
    variance: float
    low: float = -math.inf
    high: float = math.inf


def uniform(low: float, high: float) -> Distribution:
    """Uniform between the bounds: variance (high - low)^2 / 12."""
    return Distribution((low + high) / 2, (high - low) ** 2 / 12, low, high)


def normal(std: float) -> Distribution:
    """Normal with mean 0."""
    return Distribution(0.0, std * std)


def truncated_normal(std: float, *, at: float = 2.0) -> Distribution:
    """A normal of that deviation cut at `at` deviations: narrower than it says, unless its scale was corrected.

    The variance is std^2 (1 - 2 at phi(at) / (2 Phi(at) - 1)): 0.774 of it at 2 (Johnson, Kotz & Balakrishnan 1994, 13.10.1).
    """
    inside = math.erf(at / math.sqrt(2))
    density = math.exp(-at * at / 2) / math.sqrt(2 * math.pi)
    return Distribution(0.0, std * std * (1 - 2 * at * density / inside), -at * std, at * std)


def fans(shape: tuple[int, ...], *, last: bool) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight. last: outputs are the last axis (JAX, Keras), else the first (PyTorch).

    Axes beside inputs and outputs are a kernel's, each of whose places counts.
    """
    outputs, inputs = (shape[-1], shape[-2]) if last else (shape[0], shape[1])
    places = math.prod(shape) // (outputs * inputs)
    return inputs * places, outputs * places


def glorot_uniform(fan_in: int, fan_out: int, *, gain: float = 1.0) -> Distribution:
    """Glorot & Bengio 2010, eq. 16: +-gain sqrt(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6 / (fan_in + fan_out))
    return uniform(-bound, bound)


def glorot_normal(fan_in: int, fan_out: int, *, gain: float = 1.0) -> Distribution:
    """Glorot & Bengio 2010, eq. 12: variance gain^2 2 / (fan_in + fan_out)."""
    return normal(gain * math.sqrt(2 / (fan_in + fan_out)))


def he_uniform(fan: int, *, gain: float = math.sqrt(2.0)) -> Distribution:
    """He et al. 2015, eq. 10: variance gain^2 / fan, and so +-gain sqrt(3 / fan)."""
    bound = gain * math.sqrt(3 / fan)
    return uniform(-bound, bound)


def he_normal(fan: int, *, gain: float = math.sqrt(2.0)) -> Distribution:
    """He et al. 2015, eq. 10: variance gain^2 / fan."""
    return normal(gain / math.sqrt(fan))


def lecun_normal(fan_in: int) -> Distribution:
    """LeCun et al. 1998: variance 1 / fan_in."""
    return normal(1 / math.sqrt(fan_in))


def torch_linear(fan_in: int) -> Distribution:
    """What PyTorch's Linear and convolutions draw, weights and biases: +-1 / sqrt(fan_in), a third of LeCun's variance."""
    bound = 1 / math.sqrt(fan_in)
    return uniform(-bound, bound)
