"""Update rules in float64, from the papers: (w, g, t, memory, **options) -> w, for one parameter at step t = 1, 2, ...

`memory` is a dict kept for the parameter. They are written for clarity and share nothing with any implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Memory = dict[str, Tensor]
Formula = Callable[..., Tensor]


def _decayed(w: Tensor, g: Tensor, weight_decay: float, maximize: bool) -> Tensor:
    """The gradient with an L2 penalty's."""
    return (-g if maximize else g) + weight_decay * w


def sgd(
    w: Tensor,
    g: Tensor,
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
) -> Tensor:
    """Sutskever et al. 2013 in the framework's form: v <- mu v + (1 - d) g, the first v being g."""
    g = _decayed(w, g, weight_decay, maximize)
    if momentum:
        memory["v"] = g if t == 1 else momentum * memory["v"] + (1 - dampening) * g
        g = g + momentum * memory["v"] if nesterov else memory["v"]
    return w - lr * g


def _moments(g: Tensor, memory: Memory, betas: tuple[float, float]) -> tuple[Tensor, Tensor]:
    m, v = memory.get("m", torch.zeros_like(g)), memory.get("v", torch.zeros_like(g))
    memory["m"], memory["v"] = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
    return memory["m"], memory["v"]


def adam(
    w: Tensor,
    g: Tensor,
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
) -> Tensor:
    """Kingma & Ba 2015, algorithm 1; AMSGrad (Reddi et al. 2018); decoupled decay (Loshchilov & Hutter 2019)."""
    g = _decayed(w, g, 0.0 if decoupled_weight_decay else weight_decay, maximize)
    w = w * (1 - lr * weight_decay) if decoupled_weight_decay else w
    m, v = _moments(g, memory, betas)
    if amsgrad:
        v = memory["top"] = torch.maximum(memory.get("top", v), v)
    return w - lr * (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)


def adamax(
    w: Tensor,
    g: Tensor,
    t: int,
    memory: Memory,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    maximize: bool,
    **_: Any,
) -> Tensor:
    """Kingma & Ba 2015, algorithm 2, with eps beside |g|."""
    g = _decayed(w, g, weight_decay, maximize)
    memory["m"] = betas[0] * memory.get("m", torch.zeros_like(g)) + (1 - betas[0]) * g
    memory["u"] = torch.maximum(betas[1] * memory.get("u", torch.zeros_like(g)), g.abs() + eps)
    return w - lr / (1 - betas[0] ** t) * memory["m"] / memory["u"]


def nadam(
    w: Tensor,
    g: Tensor,
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
) -> Tensor:
    """Dozat 2016: Adam with Nesterov momentum mu_t = beta1 (1 - 0.96^(t psi) / 2)."""
    g = _decayed(w, g, 0.0 if decoupled_weight_decay else weight_decay, maximize)
    w = w * (1 - lr * weight_decay) if decoupled_weight_decay else w
    m, v = _moments(g, memory, betas)
    mu, following = (betas[0] * (1 - 0.5 * math.pow(0.96, i * momentum_decay)) for i in (t, t + 1))
    memory["product"] = memory.get("product", torch.ones((), dtype=g.dtype)) * mu
    look = following * m / (1 - memory["product"] * following) + (1 - mu) * g / (1 - memory["product"])
    return w - lr * look / ((v / (1 - betas[1] ** t)).sqrt() + eps)


def radam(
    w: Tensor,
    g: Tensor,
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
) -> Tensor:
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
    return w - step * rectified * math.sqrt(1 - betas[1] ** t) / (v.sqrt() + eps)


def adagrad(
    w: Tensor,
    g: Tensor,
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
) -> Tensor:
    """Duchi et al. 2011, diagonal."""
    g = _decayed(w, g, weight_decay, maximize)
    memory["sum"] = memory.get("sum", torch.full_like(g, initial_accumulator_value)) + g * g
    return w - lr / (1 + (t - 1) * lr_decay) * g / (memory["sum"].sqrt() + eps)


def adadelta(
    w: Tensor,
    g: Tensor,
    t: int,
    memory: Memory,
    *,
    lr: float,
    rho: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    **_: Any,
) -> Tensor:
    """Zeiler 2012, algorithm 1."""
    del t
    g = _decayed(w, g, weight_decay, maximize)
    memory["g2"] = rho * memory.get("g2", torch.zeros_like(g)) + (1 - rho) * g * g
    moved = memory.get("d2", torch.zeros_like(g))
    delta = (moved + eps).sqrt() / (memory["g2"] + eps).sqrt() * g
    memory["d2"] = rho * moved + (1 - rho) * delta * delta
    return w - lr * delta


def rmsprop(
    w: Tensor,
    g: Tensor,
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
) -> Tensor:
    """Tieleman & Hinton 2012; centered: Graves 2013."""
    del t
    g = _decayed(w, g, weight_decay, maximize)
    v = memory["v"] = alpha * memory.get("v", torch.zeros_like(g)) + (1 - alpha) * g * g
    if centered:
        memory["mean"] = alpha * memory.get("mean", torch.zeros_like(g)) + (1 - alpha) * g
        v = v - memory["mean"] ** 2
    step = g / (v.sqrt() + eps)
    if momentum:
        step = memory["b"] = momentum * memory.get("b", torch.zeros_like(g)) + step
    return w - lr * step


def rprop(
    w: Tensor,
    g: Tensor,
    t: int,
    memory: Memory,
    *,
    lr: float,
    etas: tuple[float, float],
    step_sizes: tuple[float, float],
    maximize: bool,
    **_: Any,
) -> Tensor:
    """Riedmiller & Braun 1993, without weight backtracking: after a change of sign the gradient counts as zero."""
    del t
    g = -g if maximize else g
    size, before = memory.get("size", torch.full_like(g, lr)), memory.get("before", torch.zeros_like(g))
    agree = g * before
    size = torch.where(agree > 0, size * etas[1], torch.where(agree < 0, size * etas[0], size)).clamp(*step_sizes)
    g = torch.where(agree < 0, 0.0, g)
    memory["size"], memory["before"] = size, g
    return w - g.sign() * size


def asgd(
    w: Tensor,
    g: Tensor,
    t: int,
    memory: Memory,
    *,
    lr: float,
    lambd: float,
    alpha: float,
    weight_decay: float,
    maximize: bool,
    **_: Any,
) -> Tensor:
    """Polyak & Juditsky 1992 after Bottou: eta_t = lr / (1 + lambda lr t)^alpha, the average being kept aside."""
    del memory
    g = _decayed(w, g, weight_decay, maximize)
    eta = lr / math.pow(1 + lambd * lr * (t - 1), alpha)
    return w * (1 - lambd * eta) - eta * g


def adafactor(
    w: Tensor,
    g: Tensor,
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
) -> Tensor:
    """Shazeer & Stern 2018, algorithm 4, with the relative step min(lr, 1 / sqrt(t)) and decoupled decay."""
    g = -g if maximize else g
    tiny = torch.finfo(g.dtype).eps if eps[0] is None else eps[0]
    rate = max(eps[1], float(w.square().mean().sqrt())) * min(lr, 1 / math.sqrt(t))
    w, fresh = w * (1 - lr * weight_decay), t**beta2_decay
    if g.dim() > 1:
        rows, columns = g.square().mean(-1, keepdim=True), g.square().mean(-2, keepdim=True)
        memory["r"] = (1 - fresh) * memory.get("r", torch.zeros_like(rows)) + fresh * rows
        memory["c"] = (1 - fresh) * memory.get("c", torch.zeros_like(columns)) + fresh * columns
        v = memory["r"] * memory["c"] / memory["r"].mean(-2, keepdim=True).clamp(min=tiny)
    else:
        v = memory["v"] = (1 - fresh) * memory.get("v", torch.zeros_like(g)) + fresh * g.square()
    u = g / v.clamp(min=tiny * tiny).sqrt()
    return w - rate * u / max(1.0, float(u.square().mean().sqrt()) / d)


def lion(
    w: Tensor, g: Tensor, t: int, memory: Memory, *, lr: float, betas: tuple[float, float], weight_decay: float, **_: Any
) -> Tensor:
    """Chen et al. 2023, algorithm 2."""
    del t
    m = memory.get("m", torch.zeros_like(g))
    memory["m"] = betas[1] * m + (1 - betas[1]) * g
    return w * (1 - lr * weight_decay) - lr * (betas[0] * m + (1 - betas[0]) * g).sign()


FORMULAS: dict[str, Formula] = {
    "SGD": sgd, "Adam": adam, "AdamW": lambda *a, **o: adam(*a, **{**o, "decoupled_weight_decay": True}), "Adamax": adamax,
    "NAdam": nadam, "RAdam": radam, "Adagrad": adagrad, "Adadelta": adadelta, "RMSprop": rmsprop, "Rprop": rprop, "ASGD": asgd,
    "Adafactor": adafactor,
}  # fmt: skip
"""By the name of the framework's own class."""

VARIANTS: dict[str, tuple[Mapping[str, Any], ...]] = {
    "SGD": ({"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "dampening": 0.3}, {"weight_decay": 0.1},
            {"maximize": True}),
    "Adam": ({"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True}),
    "AdamW": ({"weight_decay": 0.3}, {"amsgrad": True}, {"maximize": True}),
    "Adamax": ({"weight_decay": 0.1}, {"maximize": True}),
    "NAdam": ({"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}, {"maximize": True}),
    "RAdam": ({"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}, {"maximize": True}),
    "Adagrad": ({"weight_decay": 0.1}, {"lr_decay": 0.2}, {"initial_accumulator_value": 0.5}, {"maximize": True}),
    "Adadelta": ({"weight_decay": 0.1}, {"lr": 0.5}, {"maximize": True}),
    "RMSprop": ({"weight_decay": 0.1}, {"centered": True}, {"momentum": 0.9},
                {"centered": True, "momentum": 0.5}, {"maximize": True}),
    "Rprop": ({"etas": (0.3, 1.5)}, {"maximize": True}),
    "ASGD": ({"weight_decay": 0.1}, {"lambd": 0.1, "alpha": 0.5}, {"maximize": True}),
    "Adafactor": ({"weight_decay": 0.1}, {"d": 3.0}, {"maximize": True}),
}  # fmt: skip
"""Options with which the framework's own are checked as well."""


def formula_of(optimizer: Any, stated: Formula | None) -> Formula | None:
    """The author's formula, or that of one of the framework's own optimizers."""
    if stated is not None:
        return stated
    own = type(optimizer).__module__.startswith("torch.optim")
    return FORMULAS.get(type(optimizer).__name__) if own else None
