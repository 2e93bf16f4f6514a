"""The registry: names to mappings, fed by decorators and by the entry-point group `mapsto`.

Listing reads the metadata of installed distributions and imports nothing; a plugin is imported when one of its mappings
is asked for. Entry names are `kind/name`; the built-in mappings come through the same door as anyone's.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, TypeVar

from .errors import MissingExtra, RegistryError, UnknownName, nearest
from .kinds import KINDS, Kind, add_kind, kind_of

GROUP = "mapsto"
T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """One registered name. `reference` is `module:attribute`; `target` is None until it has been imported."""

    kind: str
    name: str
    reference: str
    origin: str
    target: Any = field(default=None, compare=False, repr=False)
    point: metadata.EntryPoint | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"


def reference_of(target: Any) -> str:
    """`module:qualname` of a function or class."""
    return f"{getattr(target, '__module__', '?')}:{getattr(target, '__qualname__', type(target).__qualname__)}"


def place_of(target: Any) -> str:
    """`file:line` where it can be found, else the reference."""
    try:
        return f"{inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"
    except (TypeError, OSError):
        return reference_of(target)


class Registry:
    """Names to mappings, by kind. `installed` reads the entry points (replaced in tests)."""

    def __init__(self, installed: Callable[[], Iterable[metadata.EntryPoint]] | None = None) -> None:
        self._installed = installed or (lambda: metadata.entry_points(group=GROUP))
        self._decorated: dict[tuple[str, str], Entry] = {}
        self._loaded: dict[tuple[str, str], Any] = {}
        self._points: dict[tuple[str, str], list[Entry]] | None = None

    # -- feeding -----------------------------------------------------------------------------------------------------
    def register(self, kind: str, name: str, target: T) -> T:
        """Enter `target` as `kind/name`; it is returned unchanged.

        Raises RegistryError where the target cannot be of that kind (its signature is shown) or the name is taken.
        """
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise RegistryError(f"{name!r} cannot name a {kind}: letters, digits, '_', '-' and '.' only")
        if reason := kind_of(kind).reject(target):
            raise RegistryError(
                f"{place_of(target)}: {reference_of(target)}{_signature(target)} {reason}; "
                f"a {kind} maps {kind_of(kind).signature}"
            )
        entry = Entry(kind, name, reference_of(target), place_of(target), target)
        for other in self._claims(kind, name):
            if other.reference != entry.reference and not _same(other, target):
                raise RegistryError(_collision(entry.key, [other, entry]))
        self._decorated[kind, name] = entry
        self._loaded.pop((kind, name), None)
        return target

    # -- looking up --------------------------------------------------------------------------------------------------
    def entries(self, kind: str | None = None) -> list[Entry]:
        """Every registered name, by kind and name; imports nothing. A collision shows as two entries with one key."""
        if kind is not None:
            self.kind(kind)
        found: dict[tuple[str, str, str], Entry] = {}
        for claims in self._installed_entries().values():
            for entry in claims:
                found[entry.kind, entry.name, entry.reference] = entry
        for entry in self._decorated.values():
            twins = [e for e in self._installed_entries().get((entry.kind, entry.name), []) if _same(e, entry.target)]
            if not twins:
                found[entry.kind, entry.name, entry.reference] = entry
        rank = {name: i for i, name in enumerate(KINDS)}
        chosen = (e for e in found.values() if (kind is None or e.kind == kind) and e.kind != "kind")
        return sorted(chosen, key=lambda e: (rank.get(e.kind, len(rank)), e.kind, e.name, e.origin))

    def kind(self, name: str) -> Kind:
        """The kind of that name, a plugin's included. Raises UnknownName."""
        if name not in KINDS:
            for (family, own), claims in self._installed_entries().items():
                if family == "kind" and own == name:
                    add_kind(_load(claims[0]))
        return kind_of(name)

    def get(self, kind: str, name: str) -> Any:
        """The mapping `kind/name`, imported now if need be.

        Raises UnknownName with what exists and the nearest names, RegistryError where two distributions claim the name
        or the plugin cannot be imported.
        """
        key = (self.kind(kind).name, name)
        if key in self._loaded:
            return self._loaded[key]
        claims = self._claims(*key)
        if not claims:
            names = [e.name for e in self.entries(kind)]
            elsewhere = [e.key for e in self.entries() if e.name == name]
            also = f" ({name!r} exists as {', '.join(elsewhere)})" if elsewhere else ""
            raise UnknownName(f"there is no {kind} {name!r}{also}; {nearest(name, names)}")
        if len({e.reference for e in claims}) > 1:
            raise RegistryError(_collision(f"{kind}/{name}", claims))
        target = claims[0].target if claims[0].target is not None else _load(claims[0])
        if reason := kind_of(kind).reject(target):
            raise RegistryError(f"{kind}/{name} of {claims[0].origin}: {claims[0].reference}{_signature(target)} {reason}")
        self._loaded[key] = target
        return target

    def name_of(self, kind: str, target: Any) -> str | None:
        """The name under which `target` is registered as `kind`, or None."""
        for entry in self.entries(kind):
            if entry.target is target or _same(entry, target):
                return entry.name
        return None

    # -- inside ------------------------------------------------------------------------------------------------------
    def _claims(self, kind: str, name: str) -> list[Entry]:
        installed = self._installed_entries().get((kind, name), [])
        own = self._decorated.get((kind, name))
        if own is None:
            return list(installed)
        return [own, *(e for e in installed if not _same(e, own.target))]

    def _installed_entries(self) -> dict[tuple[str, str], list[Entry]]:
        if self._points is None:
            self._points = {}
            for point in self._installed():
                kind, _, name = point.name.partition("/")
                origin = f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed distribution"
                if not name:
                    raise RegistryError(f"{origin}: entry point {point.name!r} of group {GROUP!r} must be named 'kind/name'")
                entry = Entry(kind, name, point.value.replace(" ", ""), origin, point=point)
                claims = self._points.setdefault((kind, name), [])
                if entry not in claims:
                    claims.append(entry)
        return self._points


def _same(entry: Entry, target: Any) -> bool:
    """Whether an installed entry and a decorated target are one thing (compared by name: nothing is imported)."""
    return entry.reference == reference_of(target)


def _load(entry: Entry) -> Any:
    assert entry.point is not None
    try:
        return entry.point.load()
    except MissingExtra:
        raise
    except (ImportError, AttributeError) as error:
        raise RegistryError(f"{entry.key} of {entry.origin} cannot be imported from {entry.reference}: {error}") from error


def _collision(key: str, claims: list[Entry]) -> str:
    lines = "\n".join(f"  {e.reference}  from {e.origin}" for e in claims)
    return f"{key} is claimed {len(claims)} times; uninstall or rename one:\n{lines}"


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


def decorator(kind: str) -> Callable[..., Any]:
    """The decorator that registers under `kind`: `@layer`, `@layer("name")`."""

    def register(name: str | Callable[..., Any] | None = None) -> Any:
        if callable(name):
            return registry.register(kind, snake(name.__name__), name)
        return lambda target: registry.register(kind, name or snake(target.__name__), target)

    register.__name__ = register.__qualname__ = kind
    register.__doc__ = f"Register a {kind} ({KINDS[kind].signature}); the default name is its own in snake_case."
    return register
