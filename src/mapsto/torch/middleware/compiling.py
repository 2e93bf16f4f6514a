"""Compilation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...core.compose import middleware
from ...core.doors import typed
from ...core.errors import ComposeError, SpecError, nearest
from ..state import Builder
from .matching import matching_modules

EXACT = ("eager", "aot_eager")
"""Backends that run the framework's own kernels."""
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@middleware("compile")
class Compile:
    """model -> the same model, compiled in place by `nn.Module.compile` when it is first called: names do not change.

    backend, mode, dynamic, fullgraph, options: those of `torch.compile`; modules: patterns of module names to compile
    each for itself (repeated blocks compile once), None for the whole model; enabled false does nothing.
    Compiled arithmetic may differ from eager in the last bits: strict mode takes `eager` and `aot_eager` only.
    Raises SpecError, ComposeError.
    """

    @typed
    def __init__(
        self,
        *,
        backend: str = "inductor",
        mode: str | None = None,
        dynamic: bool | None = None,
        fullgraph: bool = False,
        options: dict[str, Any] | None = None,
        modules: Sequence[str] | None = None,
        enabled: bool = True,
    ) -> None:
        if mode is not None and options is not None:
            raise SpecError("compile: mode and options exclude each other")
        known = torch.compiler.list_backends(exclude_tags=())
        if enabled and backend not in known:
            raise SpecError(f"compile.backend: there is no backend {backend!r}; {nearest(backend, known)}")
        if mode is not None and backend == "inductor" and mode not in MODES:
            raise SpecError(f"compile.mode: there is no mode {mode!r}; {nearest(mode, MODES)}")
        self.arguments = {"backend": backend, "mode": mode, "dynamic": dynamic, "fullgraph": fullgraph, "options": options}
        self.modules, self.enabled = modules, enabled

    def setup(self, builder: Builder) -> None:
        if not self.enabled:
            return
        if builder.strict and self.arguments["backend"] not in EXACT:
            raise ComposeError(
                f"compile: what {self.arguments['backend']!r} makes depends on the shapes a rank has met so far, so strict "
                f"mode cannot hold its bits; enabled: false, or one of the backends {', '.join(EXACT)}"
            )
        if self.modules is None:
            builder.model.compile(**self.arguments)
        else:
            for module in matching_modules(builder.model, self.modules, "compile.modules").values():
                module.compile(**self.arguments)
