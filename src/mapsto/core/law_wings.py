"""What the checker asks of a wing: to recognise its own kinds, to find examples, to be put back as it was."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from .errors import MissingExtra
from .laws import Subject
from .registry import registry
from .wings import DEFAULT


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


def law_wing(name: str) -> LawWing | None:
    """What the checker asks of the wing of that name; None where its framework is not installed, or it says nothing of laws."""
    framework = registry.wing(name)
    if not framework.laws or not framework.installed:
        return None
    try:
        module: Any = importlib.import_module(framework.laws)
    except MissingExtra:
        return None
    return module  # type: ignore[no-any-return]


def law_wings() -> list[LawWing]:
    """The default wing, and each whose framework is loaded in this process: what can have been touched here."""
    names = [f.name for f in registry.frameworks() if f.name == DEFAULT or f.loaded]
    return [found for name in names if (found := law_wing(name)) is not None]
