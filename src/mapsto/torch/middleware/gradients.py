"""Gradients as dense tensors, and their finiteness as a flag on the device: nothing is copied to the host."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..mesh.one import local


def dense(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients that exist, to be changed in place; of a sparse one its values, each row once."""
    found: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            found.append(parameter.grad._values())
        else:
            found.append(parameter.grad)
    return found


def scale(gradients: Iterable[Tensor], factor: Tensor) -> None:
    """Multiply gradients of any dtype by a scalar on their device, in place; of those in parts, the part that is here."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for gradient in map(local, gradients):
        groups.setdefault(gradient.dtype, []).append(gradient)
    for dtype, group in groups.items():
        torch._foreach_mul_(group, factor.to(dtype))


def check_and_scale(parameters: Iterable[nn.Parameter], factor: Tensor) -> Tensor:
    """Multiply the gradients by `factor` in place; 1.0 on its device where one of them was not finite, else 0.0."""
    flag = torch.zeros((), dtype=torch.float32, device=factor.device)
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in map(local, dense(parameters)):
        real = torch.view_as_real(gradient) if gradient.is_complex() else gradient
        groups.setdefault((real.device, real.dtype), []).append(real)
    for (device, _), gradients in groups.items():
        found = flag if device == flag.device else torch.zeros((), dtype=torch.float32, device=device)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, factor.to(device))
        if found is not flag:
            flag = torch.maximum(flag, found.to(flag.device))
    return flag


def either(first: Tensor | None, second: Tensor) -> Tensor:
    """The union of two flags, the first of which may be missing."""
    return second if first is None else torch.maximum(first, second)
