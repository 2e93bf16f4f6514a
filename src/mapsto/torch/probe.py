"""One step of a program taken apart: what each module gives, the loss, the gradients and the weights after the update."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .placement import place
from .program import Program

Seen = dict[tuple[str, str], Any]


def probe(program: Program, batch: Any, *, nudge: bool = False) -> Seen:
    """What a step gives, in the order in which it is computed: (what, which) -> array. The step is taken.

    What is `the start` (weights before it), `a module` (its output, at its last call), `the loss`, `a gradient` (as the update
    is given it, by the middleware's order too), `an update` (weights after it). nudge: all weights are moved to the next
    number first, so that the effect of one unit in the last place is seen.
    """
    seen: Seen = {}
    parameters = dict(program.model.named_parameters())
    if nudge:
        with torch.no_grad():
            for p in parameters.values():
                p.copy_(torch.nextafter(p, torch.full_like(p, float("inf"))))
    seen |= {("the start", n): _array(p) for n, p in parameters.items() if not nudge}
    hooks = [m.register_forward_hook(functools.partial(_note, seen, n)) for n, m in program.model.named_modules() if n]
    hooks += [o for o in (_gradients(program, parameters, seen),) if o is not None]
    try:
        metrics = program.step(place(batch, program.state.device))
    finally:
        for hook in hooks:
            hook.remove()
    gradients = {k: seen.pop(k) for k in [k for k in seen if k[0] == "a gradient"]}
    fetched = program.fetch([metrics])
    return {
        **seen,
        **{("the loss", f"train/{n}"): np.float64(x) for n, x in fetched.items() if n == "loss" or n.endswith("/loss")},
        **gradients,
        **{("an update", n): _array(p) for n, p in parameters.items()},
    }


def _gradients(program: Program, parameters: Mapping[str, Tensor], seen: Seen) -> Any:
    """Notes gradients as the optimizer is given them."""

    def note(optimizer: Any, args: Any, options: Any) -> None:  # noqa: ARG001  # PyTorch's signature
        seen.update({("a gradient", n): _array(p.grad) for n, p in parameters.items() if p.grad is not None})

    return program.optimizer.register_step_pre_hook(note)


def _note(seen: Seen, name: str, module: nn.Module, given: Any, output: Any) -> None:  # noqa: ARG001
    tensors = output if isinstance(output, (tuple, list)) else [output]
    for i, y in enumerate(tensors):
        if isinstance(y, Tensor):
            seen["a module", f"{name}[{i}]" if len(tensors) > 1 else name] = _array(y)


def _array(tensor: Tensor) -> Any:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy().copy()
