"""What the checker asks of a wing: to recognise its own kinds, to find examples, to be put back as it was."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from ..core.errors import MissingExtra
from ..core.laws import Subject

WINGS = ("mapsto.torch.laws",)


class LawWing(Protocol):
    """Implemented by a wing's `laws` package as functions."""

    def preload(self) -> None:
        """Import what most laws ask for late, and each worker would import anew."""
        ...

    def infer_kind(self, target: Any) -> str | None:
        """The kind of a class, factory or instance of this framework, or None."""
        ...

    def complete(self, subject: Subject) -> Subject:
        """The subject with an example found from its signature where its author stated none (or stated half)."""
        ...

    def globals(self) -> dict[str, Any]:
        """The framework's global settings that no component may change (default dtype, device, modes, threads, ...)."""
        ...

    def put_back(self, settings: Mapping[str, Any]) -> None:
        """Set them as they were."""
        ...

    def use_one_thread(self) -> None:
        """Compute in one thread, as workers do, so that sums have one order everywhere."""
        ...

    def seed(self, number: int) -> None:
        """Start the framework's global random stream anew."""
        ...

    def join(self, rank: int, world: int, store: str) -> None:
        """Join the process group of a rank worker (gloo, float64 on the CPU), rendezvous at the file `store`."""
        ...


def law_wings() -> list[LawWing]:
    """The wings whose framework is installed."""
    found: list[LawWing] = []
    for name in WINGS:
        try:
            module: Any = importlib.import_module(name)
        except MissingExtra:
            continue
        found.append(module)
    return found
