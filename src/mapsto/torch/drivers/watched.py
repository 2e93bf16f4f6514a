"""What laws of observers look at in a program of PyTorch: modes that a look at the model may leave, graphs that are held."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch


def modes(program: Any) -> dict[str, Any]:
    """The mode of every module, which parameters are trained, and whether gradients are recorded."""
    model: Any = getattr(program, "model", None)
    modules = list(model.named_modules()) if hasattr(model, "named_modules") else []
    return {
        "mode": {name or "model": module.training for name, module in modules},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()} if modules else {},
        "gradients": torch.is_grad_enabled(),
    }


@contextmanager
def modes_kept() -> Iterator[None]:
    """Afterwards gradients are recorded or not as before."""
    gradients = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)


@contextmanager
def failing(program: Any) -> Iterator[None]:
    """Within it the model raises when it is called."""

    def fails(*_: Any) -> NoReturn:
        raise RuntimeError("the model fails, as the law wants it")

    model = getattr(program, "model", None)
    hook = model.register_forward_pre_hook(fails) if isinstance(model, torch.nn.Module) else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def graphs() -> int:
    """How many tensors that are alive in this process hold an autograd graph."""
    return sum(1 for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.grad_fn is not None)
