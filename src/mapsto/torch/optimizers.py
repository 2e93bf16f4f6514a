"""Optimizers: the framework's own, by name. Those with a fused kernel use it unless told otherwise.

Any other `torch.optim.Optimizer` is named directly: `use(torch.optim.NAdam, lr=...)` or `{use: "package.module:Lion"}`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..core.registry import decorator

optimizer = decorator("optimizer")
Params = Iterable[Any]


def _fused(params: list[Any], fused: bool | None, *others: bool | None, shards: bool = True) -> bool | None:
    """Whether to use the fused kernel where nothing was said: all parameters real floats on the CPU or a CUDA device.

    shards: whether the kernel takes sharded parameters (DTensor); that of SGD does not, and none takes those of two meshes.
    """
    if fused is not None or any(others):
        return fused
    tensors = [t for p in params for t in (p["params"] if isinstance(p, dict) else [p])]
    meshes = {getattr(t, "device_mesh", None) for t in tensors}
    if len(meshes) > 1 or (not shards and meshes != {None}):
        return None
    return all(t.is_floating_point() and t.device.type in ("cpu", "cuda") for t in tensors) or None


@optimizer
def adamw(
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019): `torch.optim.AdamW`, fused where it can be."""
    given = list(params)
    fused = _fused(given, fused, foreach)
    return torch.optim.AdamW(given, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, fused=fused)


@optimizer
def adam(
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015): `torch.optim.Adam`, fused where it can be."""
    given = list(params)
    fused = _fused(given, fused, foreach)
    return torch.optim.Adam(given, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, fused=fused)


@optimizer
def sgd(
    params: Params,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent, with momentum (Sutskever et al. 2013): `torch.optim.SGD`, fused where it can be.

    With momentum the fused kernel is not chosen: where the first step is skipped (as one with gradients that are not finite
    is), it goes on with a momentum that nothing filled.
    """
    given = list(params)
    fused = _fused(given, fused, foreach, bool(momentum), shards=False)
    return torch.optim.SGD(given, lr, momentum, dampening, weight_decay, nesterov, foreach=foreach, fused=fused)
