"""Update rules: (w, g, t, memory, **options) -> w, for one parameter and its gradient at step t = 1, 2, ...

w, g: float64 arrays of one shape; memory: a dict kept for the parameter, empty at first; options: those of the optimizer, by
their usual names (`lr`, `betas`, `eps`, `weight_decay`, ...). They are written for clarity and share nothing with any
implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Memory = dict[str, Array]
Formula = Callable[..., Array]


def _decayed(w: Array, g: Array, weight_decay: float, maximize: bool) -> Array:
    """The gradient with an L2 penalty's."""
    return (-g if maximize else g) + weight_decay * w


def sgd(
    w: Array,
    g: Array,
    t: int,
    memory: Memory,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    **_: Any,
) -> Array:
    """Sutskever et al. 2013 in the framework's form: v <- mu v + (1 - d) g, the first v being g."""
    g = _decayed(w, g, weight_decay, maximize)
    if momentum:
        memory["v"] = g if t == 1 else momentum * memory["v"] + (1 - dampening) * g
        g = g + momentum * memory["v"] if nesterov else memory["v"]
    return w - lr * g


def _rms(x: Array) -> float:
    """The root of the mean square."""
    return math.sqrt(float(np.mean(x * x)))


def _moments(g: Array, memory: Memory, betas: tuple[float, float]) -> tuple[Array, Array]:
    m, v = memory.get("m", np.zeros_like(g)), memory.get("v", np.zeros_like(g))
    memory["m"], memory["v"] = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
    return memory["m"], memory["v"]


def adam(
    w: Array,
    g: Array,
    t: int,
    memory: Memory,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    amsgrad: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    **_: Any,
) -> Array:
    """Kingma & Ba 2015, algorithm 1; AMSGrad (Reddi et al. 2018); decoupled decay (Loshchilov & Hutter 2019)."""
    g = _decayed(w, g, 0.0 if decoupled_weight_decay else weight_decay, maximize)
    w = w * (1 - lr * weight_decay) if decoupled_weight_decay else w
    m, v = _moments(g, memory, betas)
    if amsgrad:
        v = memory["top"] = np.maximum(memory.get("top", v), v)
    return w - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def adamw(w: Array, g: Array, t: int, memory: Memory, **options: Any) -> Array:
    """Loshchilov & Hutter 2019, algorithm 2: Adam whose decay is a factor on the weights, (1 - lr weight_decay)."""
    return adam(w, g, t, memory, **{**options, "decoupled_weight_decay": True})


def adamax(
    w: Array,
    g: Array,
    t: int,
    memory: Memory,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    maximize: bool,
    **_: Any,
) -> Array:
    """Kingma & Ba 2015, algorithm 2, with eps beside |g|."""
    g = _decayed(w, g, weight_decay, maximize)
    memory["m"] = betas[0] * memory.get("m", np.zeros_like(g)) + (1 - betas[0]) * g
    memory["u"] = np.maximum(betas[1] * memory.get("u", np.zeros_like(g)), np.abs(g) + eps)
    return w - lr / (1 - betas[0] ** t) * memory["m"] / memory["u"]


def nadam(
    w: Array,
    g: Array,
    t: int,
    memory: Memory,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    momentum_decay: float,
    decoupled_weight_decay: bool,
    maximize: bool,
    **_: Any,
) -> Array:
    """Dozat 2016: Adam with Nesterov momentum mu_t = beta1 (1 - 0.96^(t psi) / 2)."""
    g = _decayed(w, g, 0.0 if decoupled_weight_decay else weight_decay, maximize)
    w = w * (1 - lr * weight_decay) if decoupled_weight_decay else w
    m, v = _moments(g, memory, betas)
    mu, following = (betas[0] * (1 - 0.5 * math.pow(0.96, i * momentum_decay)) for i in (t, t + 1))
    memory["product"] = memory.get("product", np.ones(())) * mu
    look = following * m / (1 - memory["product"] * following) + (1 - mu) * g / (1 - memory["product"])
    return w - lr * look / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def radam(
    w: Array,
    g: Array,
    t: int,
    memory: Memory,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled_weight_decay: bool,
    maximize: bool,
    **_: Any,
) -> Array:
    """Liu et al. 2020, algorithm 2: momentum alone until the variance is tractable (rho_t > 5)."""
    g = _decayed(w, g, 0.0 if decoupled_weight_decay else weight_decay, maximize)
    w = w * (1 - lr * weight_decay) if decoupled_weight_decay else w
    m, v = _moments(g, memory, betas)
    limit = 2 / (1 - betas[1]) - 1
    rho = limit - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
    step = lr * m / (1 - betas[0] ** t)
    if rho <= 5:
        return w - step
    rectified = math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
    return w - step * rectified * math.sqrt(1 - betas[1] ** t) / (np.sqrt(v) + eps)


def adagrad(
    w: Array,
    g: Array,
    t: int,
    memory: Memory,
    *,
    lr: float,
    lr_decay: float,
    weight_decay: float,
    eps: float,
    initial_accumulator_value: float,
    maximize: bool,
    **_: Any,
) -> Array:
    """Duchi et al. 2011, diagonal."""
    g = _decayed(w, g, weight_decay, maximize)
    memory["sum"] = memory.get("sum", np.full_like(g, initial_accumulator_value)) + g * g
    return w - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(memory["sum"]) + eps)


def adadelta(
    w: Array,
    g: Array,
    t: int,
    memory: Memory,
    *,
    lr: float,
    rho: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    **_: Any,
) -> Array:
    """Zeiler 2012, algorithm 1."""
    del t
    g = _decayed(w, g, weight_decay, maximize)
    memory["g2"] = rho * memory.get("g2", np.zeros_like(g)) + (1 - rho) * g * g
    moved = memory.get("d2", np.zeros_like(g))
    delta = np.sqrt(moved + eps) / np.sqrt(memory["g2"] + eps) * g
    memory["d2"] = rho * moved + (1 - rho) * delta * delta
    return w - lr * delta


def rmsprop(
    w: Array,
    g: Array,
    t: int,
    memory: Memory,
    *,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    centered: bool,
    maximize: bool,
    **_: Any,
) -> Array:
    """Tieleman & Hinton 2012; centered: Graves 2013."""
    del t
    g = _decayed(w, g, weight_decay, maximize)
    v = memory["v"] = alpha * memory.get("v", np.zeros_like(g)) + (1 - alpha) * g * g
    if centered:
        memory["mean"] = alpha * memory.get("mean", np.zeros_like(g)) + (1 - alpha) * g
        v = v - memory["mean"] ** 2
    step = g / (np.sqrt(v) + eps)
    if momentum:
        step = memory["b"] = momentum * memory.get("b", np.zeros_like(g)) + step
    return w - lr * step


def rprop(
    w: Array,
    g: Array,
    t: int,
    memory: Memory,
    *,
    lr: float,
    etas: tuple[float, float],
    step_sizes: tuple[float, float],
    maximize: bool,
    **_: Any,
) -> Array:
    """Riedmiller & Braun 1993, without weight backtracking: after a change of sign the gradient counts as zero."""
    del t
    g = -g if maximize else g
    size, before = memory.get("size", np.full_like(g, lr)), memory.get("before", np.zeros_like(g))
    agree = g * before
    size = np.clip(np.where(agree > 0, size * etas[1], np.where(agree < 0, size * etas[0], size)), *step_sizes)
    g = np.where(agree < 0, 0.0, g)
    memory["size"], memory["before"] = size, g
    return w - np.sign(g) * size


def asgd(
    w: Array,
    g: Array,
    t: int,
    memory: Memory,
    *,
    lr: float,
    lambd: float,
    alpha: float,
    weight_decay: float,
    maximize: bool,
    **_: Any,
) -> Array:
    """Polyak & Juditsky 1992 after Bottou: eta_t = lr / (1 + lambda lr t)^alpha, the average being kept aside."""
    del memory
    g = _decayed(w, g, weight_decay, maximize)
    eta = lr / math.pow(1 + lambd * lr * (t - 1), alpha)
    return w * (1 - lambd * eta) - eta * g


def adafactor(
    w: Array,
    g: Array,
    t: int,
    memory: Memory,
    *,
    lr: float,
    beta2_decay: float,
    eps: tuple[float | None, float],
    d: float,
    weight_decay: float,
    maximize: bool,
    **_: Any,
) -> Array:
    """Shazeer & Stern 2018, algorithm 4, with the relative step min(lr, 1 / sqrt(t)) and decoupled decay."""
    g = -g if maximize else g
    tiny = float(np.finfo(np.float64).eps) if eps[0] is None else eps[0]
    rate = max(eps[1], _rms(w)) * min(lr, 1 / math.sqrt(t))
    w, fresh = w * (1 - lr * weight_decay), t**beta2_decay
    if g.ndim > 1:
        rows, columns = np.mean(g * g, -1, keepdims=True), np.mean(g * g, -2, keepdims=True)
        memory["r"] = (1 - fresh) * memory.get("r", np.zeros_like(rows)) + fresh * rows
        memory["c"] = (1 - fresh) * memory.get("c", np.zeros_like(columns)) + fresh * columns
        v = memory["r"] * memory["c"] / np.maximum(np.mean(memory["r"], -2, keepdims=True), tiny)
    else:
        v = memory["v"] = (1 - fresh) * memory.get("v", np.zeros_like(g)) + fresh * g * g
    u = g / np.sqrt(np.maximum(v, tiny * tiny))
    return np.asarray(w - rate * u / max(1.0, _rms(u) / d))


def lion(
    w: Array, g: Array, t: int, memory: Memory, *, lr: float, betas: tuple[float, float], weight_decay: float, **_: Any
) -> Array:
    """Chen et al. 2023, algorithm 2."""
    del t
    m = memory.get("m", np.zeros_like(g))
    memory["m"] = betas[1] * m + (1 - betas[1]) * g
    return w * (1 - lr * weight_decay) - lr * np.sign(betas[0] * m + (1 - betas[0]) * g)
