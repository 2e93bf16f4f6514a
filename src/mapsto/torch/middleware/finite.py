"""Finiteness of gradients as a flag on the device: nothing is copied to the host."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def check_and_scale(parameters: Iterable[nn.Parameter], factor: Tensor) -> Tensor:
    """Multiply the gradients by `factor` in place; 1.0 on its device where one of them was not finite, else 0.0."""
    flag = torch.zeros((), dtype=torch.float32, device=factor.device)
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            groups.setdefault((parameter.device, parameter.dtype), []).append(parameter.grad._values())
        else:
            groups.setdefault((parameter.device, parameter.dtype), []).append(parameter.grad)
    for (device, _), gradients in groups.items():
        found = flag if device == flag.device else torch.zeros((), dtype=torch.float32, device=device)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, factor.to(device))
        if found is not flag:
            flag = torch.maximum(flag, found.to(flag.device))
    return flag


def either(first: Tensor | None, second: Tensor) -> Tensor:
    """The union of two flags, the first of which may be missing."""
    return second if first is None else torch.maximum(first, second)
