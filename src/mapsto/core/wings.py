"""Wings: the frameworks that mapsto drives, as they are known while nothing of them is imported.

A wing is found through the entry-point group `mapsto.wings`, so that a package can bring one; what it registers stands in
the group `mapsto.NAME`. Names in the group `mapsto` are neutral: every wing has them.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import RegistryError
from .kinds import Kind

DEFAULT = "torch"
"""The wing of what says no other: a spec without `wing`, a look-up that names none."""


@dataclass(frozen=True, kw_only=True)
class Framework:
    """What a wing says of itself.

    name: as in `wing: NAME` of a spec and in the group `mapsto.NAME`; packages: whose classes and functions are the
    framework's own, the first of which is to be installed; program, laws: the modules that implement
    `mapsto.engine.wing.Wing` and `mapsto.core.law_wings.LawWing` (empty: it trains nothing, it says nothing of subjects);
    native: the module that implements `mapsto.core.native.Native`, which imports nothing of the framework by itself;
    given: kind -> the leading parameters that the wing supplies; defaults: slot of a spec -> the name that stands there where
    none is said; preload: modules that ranks need, imported once before they are forked; templates: the package of what
    `mapsto new` writes; requires: what a package that extends this wing depends on.
    """

    name: str
    packages: tuple[str, ...] = ()
    program: str = ""
    laws: str = ""
    native: str = ""
    given: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    templates: str = ""
    requires: str = "mapsto"

    def __post_init__(self) -> None:
        """Raises RegistryError for a text where several names are wanted, whose letters would be taken for them."""
        several: dict[str, Any] = {"packages": self.packages, "preload": self.preload}
        several |= {f"given[{kind!r}]": names for kind, names in self.given.items()}
        for what, names in several.items():
            if isinstance(names, str):
                raise RegistryError(f"wing {self.name!r}: {what} is the text {names!r}, and names are wanted: ({names!r},)")

    def owns(self, target: Any) -> bool:
        """Whether a class or function is of the framework or of its wing: by where it was defined; imports nothing."""
        return self.has(getattr(target, "__module__", None) or "")

    def has(self, module: str) -> bool:
        """Whether a module of that name is of the framework or of its wing."""
        return any(module == package or module.startswith(f"{package}.") for package in self.packages)

    @property
    def installed(self) -> bool:
        """Whether the framework can be imported; imports nothing."""
        return not self.packages or self.loaded or importlib.util.find_spec(self.packages[0]) is not None

    @property
    def loaded(self) -> bool:
        """Whether the framework has been imported in this process."""
        return not self.packages or self.packages[0] in sys.modules

    def supplies(self, kind: Kind) -> Kind:
        """The kind with what this wing gives its mappings."""
        return replace(kind, given=self.given[kind.name]) if kind.name in self.given else kind


WINGS: dict[str, Framework] = {}
"""Wings that were added in this process, by name; those of installed distributions are found by the registry."""


ARRAY_TYPES: dict[type, str] = {}
"""The wing of each type whose values have been asked about (`mapsto.core.native`); nothing for types of no framework."""
NATIVE: dict[str, Any] = {}
"""What each wing says of its framework, once it was asked: data ask for each field of each batch."""


def add_wing(framework: Framework) -> Framework:
    """Add a wing that no distribution brings. Raises RegistryError where another wing already has the name."""
    if not isinstance(framework, Framework):
        raise RegistryError(f"a wing is declared by a Framework, not by a {type(framework).__name__}")
    if WINGS.get(framework.name, framework) != framework:
        raise RegistryError(f"wing {framework.name!r} is already declared")
    WINGS[framework.name] = framework
    ARRAY_TYPES.clear()
    NATIVE.clear()
    return framework


def lineage(target: Any) -> Iterator[Any]:
    """What tells whose a target is, the nearest first: a function itself; of a class or an instance the class and its bases."""
    while isinstance(target, functools.partial):
        target = target.func
    if inspect.isclass(target):
        yield from target.__mro__
    elif inspect.isroutine(target):
        yield target
    else:
        yield from type(target).__mro__
