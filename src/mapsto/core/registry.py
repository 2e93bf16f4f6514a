"""The registry: names to mappings, fed by decorators and by groups of entry points: `mapsto`, and `mapsto.WING` of each wing.

Listing reads the metadata of installed distributions and imports nothing; a plugin is imported when one of its mappings
is asked for. Entry names are `kind/name`; the built-in mappings come through the same door as anyone's. A name is of a wing
or neutral: every wing has the neutral ones, so one that both a wing and the group `mapsto` hold is claimed twice, and two
wings may hold one name. Distributions that `MAPSTO_DISABLE` names are left out, as if they were not installed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import tokenize
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Protocol, TypeVar, overload

from .errors import MapstoError, RegistryError, UnknownName, nearest
from .kinds import BUILT_IN, KINDS, Kind, add_kind, plural
from .wings import DEFAULT, WINGS, Framework, lineage

GROUP = "mapsto"
WINGS_GROUP = "mapsto.wings"
DISABLE = "MAPSTO_DISABLE"
"""The environment variable that names distributions, with commas between, whose mappings are left out."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
T = TypeVar("T", bound=Callable[..., Any])
Key = tuple[str, str, str | None]
"""Kind, name, wing (None: neutral)."""


@dataclass(frozen=True)
class Entry:
    """One registered name, of a wing or (None) of all. `reference` is `module:attribute`; `target` is None until it has been
    imported."""

    kind: str
    name: str
    reference: str
    origin: str
    target: Any = field(default=None, compare=False, repr=False)
    point: metadata.EntryPoint | None = field(default=None, compare=False, repr=False)
    wing: str | None = None

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def full(self) -> str:
        """`wing/kind/name`, or `kind/name` of a neutral one."""
        return f"{self.wing}/{self.key}" if self.wing else self.key

    def meets(self, other: Entry) -> bool:
        """Whether both are looked up together in some wing."""
        return self.wing == other.wing or (self.kind != "law" and None in (self.wing, other.wing))

    @property
    def package(self) -> str:
        return re.split(r"[.:]", self.reference)[0]


def reference_of(target: Any) -> str:
    """`module:qualname` of a function or class."""
    return f"{getattr(target, '__module__', '?')}:{getattr(target, '__qualname__', type(target).__qualname__)}"


def place_of(target: Any) -> str:
    """`file:line` where it can be found, else the reference."""
    try:
        return f"{inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"
    except (TypeError, OSError, SyntaxError, tokenize.TokenError):  # the file is gone, was changed since, or is no Python
        return reference_of(target)


class Registry:
    """Names to mappings, by kind and wing. `installed` reads the entry points (replaced in tests)."""

    def __init__(self, installed: Callable[[], Iterable[metadata.EntryPoint]] | None = None) -> None:
        self._installed = installed or _installed
        self._decorated: dict[Key, Entry] = {}
        self._loaded: dict[Key, Any] = {}
        self._points: dict[Key, list[Entry]] | None = None
        self._wings: dict[str, list[Entry]] = {}
        self._misnamed: list[str] = []
        self._disabled: list[Entry] = []

    # -- feeding -----------------------------------------------------------------------------------------------------
    def register(self, kind: str, name: str, target: T, wing: str | None = None) -> T:
        """Enter `target` as `kind/name`; it is returned unchanged.

        wing: whose it is (default, of a kind that is native to frameworks: that of the framework that owns the target, else it
        is neutral). Raises RegistryError where the target cannot be of that kind (its signature is shown) or the name is taken.
        """
        if not NAME.fullmatch(name):
            raise RegistryError(f"{name!r} cannot name a {kind}: letters, digits, '_' and '-' only")
        wing = wing or (self.owner(target) if self.kind(kind).native else None)
        owner = self.kind(kind, wing)
        if reason := owner.reject(target):
            raise RegistryError(
                f"{place_of(target)}: {reference_of(target)}{_signature(target)} {reason}; a {kind} maps {owner.signature}"
            )
        entry = Entry(kind, name, reference_of(target), place_of(target), target, wing=wing)
        # An entry point into the same package may name a re-export of this very target, which cannot be told while that
        # package is still being imported: `get` settles it.
        claims = self._claims(kind, name, [wing] if wing or kind == "law" else [None, *self.wings()])
        rivals = [e for e in claims if not _same(e, target) and (e.point is None or e.package != entry.package)]
        if rivals:
            raise RegistryError(_collision(entry.key, [*rivals, entry]))
        self._decorated[kind, name, wing] = entry
        for key in [k for k in self._loaded if k[:2] == (kind, name)]:
            del self._loaded[key]
        return target

    def refresh(self) -> None:
        """Read the installed distributions again, for one that was installed since."""
        self._points = None
        self._loaded.clear()

    # -- kinds and wings ---------------------------------------------------------------------------------------------
    def kinds(self) -> list[str]:
        """The names of all kinds, a plugin's included; imports nothing."""
        plugins = sorted({name for family, name, _ in self._installed_entries() if family == "kind"})
        return [*KINDS, *(name for name in plugins if name not in KINDS)]

    def kind(self, name: str, wing: str | None = None) -> Kind:
        """The kind of that name, a plugin's included, with what the wing gives its mappings where one is named.

        Raises UnknownName, or RegistryError where two declare it.
        """
        found = self._kind(name)
        return found if wing is None else self.supplied(found, wing)

    def supplied(self, kind: Kind, wing: str) -> Kind:
        """The kind with what the wing gives its mappings. Raises UnknownName where there is no such wing."""
        return kind if wing == DEFAULT and wing not in self.wings() else self.wing(wing).supplies(kind)

    def _kind(self, name: str) -> Kind:
        claims = self._claims("kind", name, [None, *self.wings()])
        if name in BUILT_IN and claims:
            raise RegistryError(f"{claims[0].key} of {claims[0].origin}: mapsto has a kind of that name; rename it")
        if name in KINDS:
            return KINDS[name]
        if not claims:
            raise UnknownName(f"there is no kind {name!r}; {nearest(name, self.kinds())}")
        found = _sole(f"kind/{name}", claims)
        if not isinstance(found, Kind) or found.name != name:
            what = f"the kind {found.name!r}" if isinstance(found, Kind) else f"a {type(found).__name__}"
            where = f"{claims[0].key} of {claims[0].origin}"
            raise RegistryError(f"{where}: {claims[0].reference} is {what}, and Kind(name={name!r}, ...) is wanted")
        return add_kind(found)

    def kind_of_parameter(self, name: str) -> Kind | None:
        """The kind that a parameter's name tells: `loss` or `losses`, `source` or `sources`."""
        return next((self.kind(kind) for kind in self.kinds() if name in (kind, plural(kind))), None)

    def wings(self) -> list[str]:
        """The names of all wings, the default one first; imports nothing."""
        self._installed_entries()
        return sorted({*WINGS, *self._wings}, key=lambda name: (name != DEFAULT, name))

    def wing(self, name: str) -> Framework:
        """What the wing of that name says of itself; its framework is not imported.

        Raises UnknownName with those there are, RegistryError where two distributions bring it or it cannot be imported.
        """
        if name in WINGS:
            return WINGS[name]
        if name not in self.wings():
            off = [entry.origin for entry in self.disabled() if (entry.kind, entry.name) == ("wing", name)]
            also = f" ({off[0]} brings it, and {DISABLE} leaves that out)" if off else ""
            raise UnknownName(f"there is no wing {name!r}{also}; {nearest(name, self.wings())}")
        claims = self._wings[name]
        found = _sole(f"wing {name}", claims)
        if not isinstance(found, Framework) or found.name != name:
            what = f"the wing {found.name!r}" if isinstance(found, Framework) else f"a {type(found).__name__}"
            where = f"wing {name} of {claims[0].origin}"
            raise RegistryError(f"{where}: {claims[0].reference} is {what}, and Framework(name={name!r}, ...) is wanted")
        for kind in found.given:
            if kind not in self.kinds():
                where = f"wing {name} of {claims[0].origin}"
                raise RegistryError(f"{where}: `given` names the kind {kind!r}; {nearest(kind, self.kinds())}")
        return found

    def unusable(self) -> list[str]:
        """Sentences on the wings that cannot be used: that cannot be imported, or whose framework is not installed."""
        said = []
        for name in self.wings():
            try:
                framework = self.wing(name)
            except RegistryError as error:
                said.append(" ".join(str(error).split()))
                continue
            if not framework.installed:
                said.append(f"wing {name}: its framework {framework.packages[0]} is not installed, so its names cannot be used")
        return said

    def frameworks(self) -> list[Framework]:
        """Every wing that can be used; one that cannot tells so when it is asked for by name."""
        found = []
        for name in self.wings():
            with contextlib.suppress(RegistryError):
                found.append(self.wing(name))
        return found

    def owner(self, target: Any) -> str | None:
        """The wing whose framework a class, function or instance belongs to, by the nearest of its bases; None: of none."""
        wings = self.frameworks()
        return next((w.name for thing in lineage(target) for w in wings if w.owns(thing)), None)

    # -- looking up --------------------------------------------------------------------------------------------------
    def entries(self, kind: str | None = None, wing: str | None = None) -> list[Entry]:
        """Every registered name, by kind and name; imports nothing. wing: only what that wing has, the neutral included.

        A collision shows as two entries with one key.
        """
        if kind is not None and kind not in self.kinds():
            raise UnknownName(f"there is no kind {kind!r}; {nearest(kind, self.kinds())}")
        installed = self._installed_entries()
        found = [entry for claims in installed.values() for entry in claims]
        for own in self._decorated.values():
            wings = [own.wing] if own.wing or own.kind == "law" else [None, *self.wings()]
            claims = self._claims(own.kind, own.name, wings, decorated=False)
            if not any(_same(e, own.target) or e.package == own.package for e in claims):
                found.append(own)
        rank = {name: i for i, name in enumerate(self.kinds())}
        chosen = (e for e in found if (kind is None or e.kind == kind) and e.kind != "kind" and wing in (None, e.wing or wing))
        return sorted(chosen, key=lambda e: (rank.get(e.kind, len(rank)), e.kind, e.name, e.wing or "", e.origin))

    def spelling(self, entry: Entry) -> str:
        """By what people name an entry: `kind/name`, or `wing/kind/name` where another wing has that name too."""
        alike = (e for e in self.entries(entry.kind) if e.name == entry.name)
        return entry.key if all(e.meets(entry) for e in alike) else entry.full

    def in_several(self, text: str, entries: Iterable[Entry]) -> str:
        """What to say of a name that several wings have where one is meant."""
        return f"{text!r} is a name in several wings: say one of {', '.join(e.full for e in entries)}, or its wing (--wing)"

    def misnamed(self) -> list[str]:
        """What is wrong with entry points whose names say no kind and name; they are left out, and break nothing else."""
        self._installed_entries()
        return list(self._misnamed)

    def disabled(self) -> list[Entry]:
        """What `MAPSTO_DISABLE` leaves out."""
        self._installed_entries()
        return list(self._disabled)

    def get(self, kind: str, name: str, wing: str | None = DEFAULT) -> Any:
        """The mapping `kind/name` of a wing (None: a neutral one), imported now if need be.

        Raises UnknownName with what exists and the nearest names, RegistryError where two distributions claim the name
        or the plugin cannot be imported.
        """
        owner = self.kind(kind, wing)
        if (kind, name, wing) in self._loaded:
            return self._loaded[kind, name, wing]
        claims = self._claims(kind, name, [wing])
        if not claims:
            raise UnknownName(self._unknown(kind, name, wing))
        target = _sole(f"{kind}/{name}", claims)
        if reason := owner.reject(target):
            raise RegistryError(f"{kind}/{name} of {claims[0].origin}: {claims[0].reference}{_signature(target)} {reason}")
        self._loaded[kind, name, wing] = target
        return target

    def _unknown(self, kind: str, name: str, wing: str | None) -> str:
        """What to say of a name that is not there."""
        alike = [e for e in self.entries() if e.name == name]
        others = sorted({e.wing for e in alike if e.kind == kind and e.wing})
        where = f" in the wing {wing}" if wing and (others or wing != DEFAULT) else ""
        here = [e.key for e in alike if e.kind != kind]
        also = f" (the wing{'s' if len(others) > 1 else ''} {' and '.join(others)} has it)" if others else ""
        also += f" ({name!r} exists as {', '.join(dict.fromkeys(here))})" if here else ""
        off = sorted({e.origin for e in self.disabled() if (e.kind, e.name) == (kind, name)})
        also += f" ({', '.join(off)} has it, and {DISABLE} leaves that out)" if off else ""
        left_out = "".join(f"\n(left out: {said})" for said in self.misnamed())
        names = list(dict.fromkeys(e.name for e in self.entries(kind, wing) if wing or e.wing is None))
        return f"there is no {kind} {name!r}{where}{also}; {nearest(name, names)}{left_out}"

    def name_of(self, kind: str, target: Any) -> str | None:
        """The name under which `target` is registered as `kind`, or None; imports nothing."""
        for entry in [*self._decorated.values(), *self.entries(kind)]:
            if entry.kind == kind and (entry.target is target if entry.point is None else _same(entry, target)):
                return entry.name
        return None

    def label(self, target: Any) -> str:
        """What people call `target`: the name that a decorator gave it, else its own in snake_case.

        A function with its options bound (a `functools.partial`) is called as the function is.
        """
        while isinstance(target, functools.partial):
            target = target.func
        named = (entry.name for entry in self._decorated.values() if entry.target is target)
        return next(named, snake(getattr(target, "__name__", type(target).__name__)))

    # -- inside ------------------------------------------------------------------------------------------------------
    def _claims(self, kind: str, name: str, wings: Iterable[str | None], *, decorated: bool = True) -> list[Entry]:
        """Who claims the name in one of the wings, where the neutral ones count in each; a file of laws is asked for by its
        wing alone, for it is the laws in it whose names are looked up."""
        found = []
        for wing in dict.fromkeys(wings) if kind == "law" else dict.fromkeys([*wings, None]):
            own = self._decorated.get((kind, name, wing))
            found += [*([own] if own and decorated else []), *self._installed_entries().get((kind, name, wing), [])]
        return found

    def _installed_entries(self) -> dict[Key, list[Entry]]:
        if self._points is not None:
            return self._points
        points: dict[Key, list[Entry]] = {}
        installed = list(self._installed())
        whose = _distributions(installed)
        off, self._misnamed = _disabled({name for name, _ in whose.values()})
        self._disabled, self._wings = [], {}
        for point in sorted(installed, key=lambda point: point.group != WINGS_GROUP):
            owner, version = whose.get(id(point.dist), ("", ""))
            origin = f"{owner} {version}" if point.dist else "an unnamed distribution"
            wing, kind, name = _read(point)
            entry = Entry(kind, name, point.value.replace(" ", ""), origin, point=point, wing=wing)
            gone = {e.name for e in self._disabled if e.kind == "wing"} - self._wings.keys()
            if (point.dist and _normal(owner) in off) or wing in gone:
                self._disabled.append(entry)
                continue
            if wrong := _wrong(point, wing, kind, name, {*WINGS, *self._wings}):
                self._misnamed.append(f"{origin}: {wrong}")
                continue
            claims = self._wings.setdefault(name, []) if kind == "wing" else points.setdefault((kind, name, wing), [])
            if entry not in claims:
                claims.append(entry)
                claims.sort(key=lambda e: e.origin)
        self._points = points
        return points


def _installed() -> Iterable[metadata.EntryPoint]:
    found = metadata.entry_points()
    groups = sorted(group for group in found.groups if group == GROUP or group.startswith(f"{GROUP}."))
    return [point for group in groups for point in found.select(group=group)]


def _distributions(installed: Iterable[metadata.EntryPoint]) -> dict[int, tuple[str, str]]:
    """Name and version of each distribution by its id: to ask either of one parses all of its metadata."""
    found: dict[int, tuple[str, str]] = {}
    for point in installed:
        if point.dist and id(point.dist) not in found:
            found[id(point.dist)] = (point.dist.name, point.dist.version)
    return found


def _read(point: metadata.EntryPoint) -> tuple[str | None, str, str]:
    """Wing, kind and name of an entry point; of one that brings a wing the kind is `wing`."""
    if point.group == WINGS_GROUP:
        return None, "wing", point.name
    kind, _, name = point.name.partition("/")
    return point.group.partition(".")[2] or None, kind, name


def _wrong(point: metadata.EntryPoint, wing: str | None, kind: str, name: str, wings: Iterable[str]) -> str | None:
    """Why an entry point is left out, or None."""
    if not NAME.fullmatch(kind) or not NAME.fullmatch(name):
        wanted = "NAME" if point.group == WINGS_GROUP else "kind/name"
        return (
            f"entry point {point.name!r} of group {point.group!r} must be named {wanted!r} "
            "with letters, digits, '_' and '-' only"
        )
    if wing is not None and wing not in wings:
        return f"entry point {point.name!r} is of group {point.group!r}, and there is no wing {wing!r}; {nearest(wing, wings)}"
    return None


def _normal(distribution: str) -> str:
    """The name of a distribution as all its spellings are compared."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _disabled(installed: Iterable[str]) -> tuple[set[str], list[str]]:
    """The distributions that the environment disables, and sentences on names in it that disable nothing.

    A wrong name is told and is no error: the variable may be set for all of a person's environments.
    """
    there = {_normal(name): name for name in installed if _normal(name) != GROUP}
    asked = [name.strip() for name in os.environ.get(DISABLE, "").split(",") if name.strip()]
    wrong = [name for name in asked if _normal(name) not in there]
    said = [
        f"{DISABLE}: mapsto's own mappings cannot be disabled"
        if _normal(name) == GROUP
        else f"{DISABLE}: no distribution {name!r} registers anything; {nearest(name, there.values())}"
        for name in wrong
    ]
    return {_normal(name) for name in asked} & set(there), said


def _same(entry: Entry, target: Any) -> bool:
    """Whether an entry and a target are one thing (compared by name: nothing is imported)."""
    return entry.reference == reference_of(target)


def _sole(key: str, claims: list[Entry]) -> Any:
    """The one target that all claims name. Raises RegistryError with every origin where they name several."""
    rivals = [claims[0], *(e for e in claims[1:] if e.reference != claims[0].reference)]
    if any(e.package != claims[0].package for e in rivals):
        raise RegistryError(_collision(key, rivals))
    targets = [_load(e) for e in rivals]  # of one package: a re-export names the same thing twice
    if any(t is not targets[0] for t in targets):
        raise RegistryError(_collision(key, rivals))
    return targets[0]


def _load(entry: Entry) -> Any:
    if entry.point is None:
        return entry.target
    try:
        return entry.point.load()
    except MapstoError:
        raise
    except Exception as error:  # a plugin may fail in any way while it is imported; its own error is chained
        reason = f"{type(error).__name__}: {error}"
        raise RegistryError(f"{entry.key} of {entry.origin} cannot be imported from {entry.reference}: {reason}") from error


def _collision(key: str, claims: list[Entry]) -> str:
    lines = "\n".join(f"  {e.reference}  from {e.origin}" for e in claims)
    return f"{key} is claimed {len(claims)} times; uninstall, rename or disable one ({DISABLE}=NAME):\n{lines}"


def _signature(target: Any) -> str:
    try:
        return str(inspect.signature(target))
    except (TypeError, ValueError):
        return "(...)"


registry = Registry()
"""The one registry of the process."""


def snake(name: str) -> str:
    """`ClipNorm` -> `clip_norm`: the default name of what a decorator registers."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class Decorator(Protocol):
    """`@layer` and `@layer("name")`: what is decorated keeps its type."""

    @overload
    def __call__(self, name: T, /) -> T: ...
    @overload
    def __call__(self, name: str | None = None) -> Callable[[T], T]: ...


def decorator(kind: str, wing: str | None = None) -> Decorator:
    """The decorator that registers under `kind`: `@layer`, `@layer("name")`. wing: see `Registry.register`."""

    def register(name: Any = None) -> Any:
        if callable(name):
            return registry.register(kind, snake(name.__name__), name, wing)
        return lambda target: registry.register(kind, name or snake(target.__name__), target, wing)

    register.__name__ = register.__qualname__ = kind
    signature = (KINDS.get(kind) or registry.kind(kind)).signature
    register.__doc__ = f"Register a {kind} ({signature}); the default name is its own in snake_case."
    return register
