"""Whether an optimizer gives a part of a parameter the bits that it gives the whole: tried out, before a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ....core.errors import SpecError
from ...mappings import needs_closure

SHAPES = ((301, 7), (211, 5), (97, 3))
"""Of no whole number of vector registers, whole or cut."""
ROWS = 45
STEPS = 8
UNFUSED = {"fused": False, "foreach": True}
"""On the CPU a fused kernel computes the last elements of a tensor by other code than the others, with other last bits."""


def injected(device: torch.device) -> dict[str, Any]:
    """Arguments for optimizers that leave them open."""
    return UNFUSED if device.type == "cpu" else {}


def refuse_rule(make: Callable[[list[nn.Parameter]], Any], device: torch.device) -> None:
    """Step parameters whole and in two parts. Raises SpecError naming the optimizer where their bits differ, and for a fused
    kernel on any CPU: on one without vectors its bits happen to be the same, and what is refused must not depend on that."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator).to(device) for shape in SHAPES]
    gradients = [[torch.randn(shape, generator=generator).to(device) for shape in SHAPES] for _ in range(STEPS)]
    found: list[list[Tensor]] = []
    for rows in (slice(None), slice(0, ROWS), slice(ROWS, None)):
        parameters = [nn.Parameter(value[rows].clone()) for value in start]
        optimizer = make(parameters)
        name = type(optimizer).__name__
        if needs_closure(optimizer):
            raise SpecError(
                f"strict: {name} evaluates a closure, whose products over all elements depend on how they are sharded"
            )
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient[rows].clone()
            optimizer.step()
        found.append([p.detach() for p in parameters])
    whole, first, last = found
    same = all(torch.equal(w, torch.cat([a, b])) for w, a, b in zip(whole, first, last, strict=True))
    fused = device.type == "cpu" and any(group.get("fused") for group in optimizer.param_groups)
    if fused or not same:
        why = (
            "its fused kernel computes the ends of a tensor by other code (fused: false)"
            if fused
            else "its rule looks beyond it"
        )
        raise SpecError(
            f"strict: {name} gives a part of a parameter other bits than the whole, since {why}: it cannot be sharded; "
            "replicate holds whole parameters"
        )
