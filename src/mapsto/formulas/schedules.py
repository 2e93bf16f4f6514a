"""Closed forms of schedules: (t, base, **options) -> the learning rate before update t = 0, 1, ... of a rate `base` stated.

Each depends on t alone, and comes from the paper that is named or from the definition; options have their usual names.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

Formula = Callable[..., float]


def step(t: int, base: float, *, step_size: int, gamma: float) -> float:
    """gamma to the number of whole step_sizes."""
    return base * gamma ** (t // step_size)


def multi_step(t: int, base: float, *, milestones: Sequence[int], gamma: float) -> float:
    """gamma to the number of milestones reached; one that is listed twice counts twice."""
    return base * gamma ** bisect_right(sorted(milestones), t)


def constant(t: int, base: float, *, factor: float, total_iters: int) -> float:
    """A factor until total_iters, then 1."""
    return base * (factor if t < total_iters else 1.0)


def linear(t: int, base: float, *, start_factor: float, end_factor: float, total_iters: int) -> float:
    """A factor that moves linearly from start to end over total_iters."""
    return base * (start_factor + (end_factor - start_factor) * min(t, total_iters) / total_iters)


def exponential(t: int, base: float, *, gamma: float) -> float:
    """gamma to the t."""
    return base * gamma**t


def polynomial(t: int, base: float, *, total_iters: int, power: float) -> float:
    """(1 - t / T) to the power, zero afterwards."""
    return float(base * (1.0 - min(t, total_iters) / total_iters) ** power)


def cosine(t: int, base: float, *, T_max: int, eta_min: float) -> float:
    """Loshchilov & Hutter 2017, eq. 5 without restarts: half a cosine, going on periodically."""
    return eta_min + (base - eta_min) * (1 + math.cos(math.pi * t / T_max)) / 2


def warm_restarts(t: int, base: float, *, T_0: int, T_mult: int, eta_min: float) -> float:
    """Loshchilov & Hutter 2017, eq. 5: cosines over T_0, T_0 T_mult, T_0 T_mult^2, ... steps."""
    length = T_0
    while t >= length:
        t, length = t - length, length * T_mult
    return eta_min + (base - eta_min) * (1 + math.cos(math.pi * t / length)) / 2


def cyclic(
    t: int,
    base: float,
    *,
    base_lr: float,
    max_lr: float,
    step_size_up: int,
    step_size_down: int | None,
    mode: str,
    gamma: float,
) -> float:
    """Smith 2017: a triangle from base_lr to max_lr and back; its height halves each cycle or decays as gamma^t."""
    del base
    up, down = step_size_up, step_size_up if step_size_down is None else step_size_down
    cycle, place = divmod(t, up + down)
    part = place / up if place <= up else (up + down - place) / down
    height = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": gamma**t}[mode]
    return base_lr + (max_lr - base_lr) * part * height


def one_cycle(
    t: int,
    base: float,
    *,
    max_lr: float,
    total_steps: int,
    pct_start: float,
    anneal_strategy: str,
    div_factor: float,
    final_div_factor: float,
    three_phase: bool,
) -> float:
    """Smith & Topin 2018: up to max_lr, and down to far below where it began (in three phases: symmetric, then down)."""
    del base
    low = max_lr / div_factor
    bottom = low / final_div_factor
    top = pct_start * total_steps - 1
    phases = [(0.0, top, low, max_lr)]
    if three_phase:
        phases += [(top, 2 * top, max_lr, low), (2 * top, total_steps - 1.0, low, bottom)]
    else:
        phases += [(top, total_steps - 1.0, max_lr, bottom)]
    begin, end, start, stop = next((p for p in phases if t <= p[1]), phases[-1])
    part = (t - begin) / (end - begin)
    if anneal_strategy == "linear":
        return start + (stop - start) * part
    return stop + (start - stop) * (1 + math.cos(math.pi * part)) / 2


def of_lambda(t: int, base: float, *, lr_lambda: Callable[[int], float]) -> float:
    """A factor that is a function of t."""
    return base * lr_lambda(t)


def multiplicative(t: int, base: float, *, lr_lambda: Callable[[int], float]) -> float:
    """The product of the factors of the steps 1, ..., t."""
    return base * math.prod(lr_lambda(i) for i in range(1, t + 1))


def plateau(
    t: int,
    base: float,
    *,
    metrics: Sequence[float],
    patience: int,
    factor: float,
    threshold: float = 1e-4,
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
) -> float:
    """Reduced where the metric was not better (relatively) than the best for more than `patience` steps outside a cooldown."""
    rate, best, bad, cooling = base, math.inf, 0, 0
    for value in metrics[:t]:
        better = value < best * (1 - threshold) if best != math.inf else True
        best, bad = (value, 0) if better else (best, bad + 1)
        if cooling:
            cooling, bad = cooling - 1, 0
        if bad > patience:
            lower = max(rate * factor, min_lr)
            rate = lower if rate - lower > eps else rate
            bad, cooling = 0, cooldown
    return rate


def averaging(t: int, base: float, *, swa_lr: float, anneal_epochs: int, anneal_strategy: str) -> float:
    """Izmailov et al. 2018: from the rate at hand to swa_lr over anneal_epochs, then constant."""
    part = min(t, anneal_epochs) / anneal_epochs
    part = (1 - math.cos(math.pi * part)) / 2 if anneal_strategy == "cos" else part
    return base + (swa_lr - base) * part


def warmup(t: int, base: float, *, total_steps: int, steps: int | float, decay: str, final: float) -> float:
    """(t + 1) / rise during the rise; then what the decay says of the share of the rest that has passed."""
    rise = round(steps * total_steps) if isinstance(steps, float) else steps
    if t < rise:
        return base * (t + 1) / rise
    passed = min(1.0, (t - rise) / (total_steps - rise))
    shape = {
        "cosine": final + (1 - final) * math.cos(math.pi * passed / 2) ** 2,
        "linear": passed * final + (1 - passed),
        "constant": 1.0,
        "inverse_sqrt": (max(rise, 1) / max(t, rise, 1)) ** 0.5,
    }
    return float(base * shape[decay])
