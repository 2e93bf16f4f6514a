"""Activation checkpointing: activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ...core.compose import middleware
from ...core.doors import typed
from ..state import Builder
from .copies import kept
from .matching import matching_modules


@middleware("activation_checkpointing")
class ActivationCheckpointing:
    """model -> the same model that keeps only the inputs of the modules that match (Chen et al. 2016).

    modules: shell-style patterns of module names; what lies within a match is recomputed with it. Names, random draws
    (dropout) and batch statistics are those of the plain model, so weights are the same bit for bit; a step costs about
    one more forward pass of these modules. Raises SpecError with the nearest module name.
    """

    @typed
    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = tuple(modules)

    def setup(self, builder: Builder) -> None:
        for module in matching_modules(builder.model, self.modules, "activation_checkpointing.modules").values():
            module.forward = functools.partial(_recomputed, module, module.forward)


def _recomputed(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if not module.training or next(module.buffers(), None) is None or torch.compiler.is_compiling():
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), kept(module.buffers())  # batch statistics count a batch once

    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True, context_fn=contexts, **kwargs)
