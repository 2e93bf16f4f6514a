"""What the checker asks of a wing: to recognise its own kinds, to find examples, to be put back as it was."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from .errors import MapstoError, MissingExtra, RegistryError, told
from .laws import Subject
from .registry import registry
from .wings import DEFAULT


class LawWing:
    """Implemented by the module that `Framework.laws` names, as functions; what it leaves out is as it stands here."""

    def preload(self) -> None:
        """Import what most laws ask for late, and each worker would import anew."""

    def preload_later(self) -> Sequence[str]:
        """Modules that only some laws ask for, and that take long: each is imported while first laws are judged already."""
        return ()

    def infer_kind(self, target: Any) -> str | None:  # noqa: ARG002
        """The kind of a class, factory or instance of this framework, or None."""
        return None

    def complete(self, subject: Subject) -> Subject:
        """The subject with its driver, and an example found from its signature where its author stated none (or half)."""
        return subject

    def words(self) -> Mapping[str, str]:
        """Law -> how to satisfy it in the framework's own words, beside what the law says for all."""
        return {}

    def globals(self) -> dict[str, Any]:
        """The framework's global settings that no component may change (default dtype, device, modes, threads, ...)."""
        return {}

    def put_back(self, settings: Mapping[str, Any]) -> None:
        """Set the framework's global settings as `globals` gave them."""

    def use_one_thread(self) -> None:
        """Compute in one thread, as workers do, so that sums have one order everywhere."""

    def seed(self, number: int) -> None:
        """Start the framework's global random stream anew."""

    def streams(self) -> dict[str, Any]:
        """The states of the framework's global random streams, by what people call them."""
        return {}

    def put_streams(self, states: Mapping[str, Any]) -> None:
        """Put the framework's global random streams back to states that `streams` gave."""

    def run_parts(self) -> dict[str, Any]:
        """The slots of a small run by which observers and programs are judged: a model of 8 inputs and 3 classes with dropout
        and running statistics, an optimizer, a schedule, middleware that has a state."""
        raise RegistryError("this wing names no small run by which observers and programs are judged (`run_parts`)")

    def modes(self, program: Any) -> dict[str, Any]:  # noqa: ARG002
        """What a look at a program of this wing may leave changed beside its state, by path: modes, switches."""
        return {}

    def modes_kept(self) -> AbstractContextManager[None]:
        """Afterwards the framework's own of these are as before."""
        return nullcontext()

    def failing(self, program: Any) -> AbstractContextManager[None]:  # noqa: ARG002
        """Within it the program's model raises when it is called, where one can be made to."""
        return nullcontext()

    def graphs(self) -> int:
        """How many objects there are that hold what a step computed, such as a tensor with its graph."""
        return 0

    def join(self, rank: int, world: int, store: str) -> None:
        """Join the process group of a rank worker (gloo, float64 on the CPU), rendezvous at the file `store`."""


def law_wing(name: str) -> LawWing | None:
    """What the checker asks of the wing of that name; None where its framework is not installed, or it says nothing of laws.

    Raises RegistryError where its module of laws is missing or cannot be imported.
    """
    framework = registry.wing(name)
    if not framework.laws or not framework.installed:
        return None
    try:
        module = importlib.import_module(framework.laws)
    except MissingExtra:
        return None
    except Exception as error:  # a wing's module may fail in any way while it is imported
        raise RegistryError(f"wing {name}: its module of laws {framework.laws} cannot be imported: {told(error)}") from error
    made = LawWing()
    vars(made).update({name: found for name, found in vars(module).items() if name[0] != "_" and hasattr(LawWing, name)})
    return made


def law_wings(*, default: bool = True) -> list[LawWing]:
    """The wings whose framework is loaded in this process, which alone can have been touched here, and the default one.

    One whose module of laws cannot be imported is left out: whoever checks something of it is told.
    """
    found = []
    for framework in registry.frameworks():
        if framework.loaded or (default and framework.name == DEFAULT):
            with contextlib.suppress(RegistryError):
                found.append(law_wing(framework.name))
    return [wing for wing in found if wing is not None]


def complete(subject: Subject) -> Subject:
    """The subject with its driver, and what its wing finds of its example.

    Raises RegistryError where the wing's `complete` raises something, or gives something else.
    """
    wing = law_wing(subject.wing) if subject.wing is not None else None
    if wing is None:
        return subject
    where = f"wing {subject.wing}: `complete` of {registry.wing(str(subject.wing)).laws}"
    try:
        made: Any = wing.complete(subject)
    except MapstoError:
        raise
    except Exception as error:
        raise RegistryError(f"{where} failed for {subject.label}: {told(error)}") from error
    if not isinstance(made, Subject):
        what = "None" if made is None else f"a {type(made).__name__}"
        raise RegistryError(f"{where} gave {what} for {subject.label}, and a Subject is wanted: let it return the subject")
    return replace(made, words=wing.words())
