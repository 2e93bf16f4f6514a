"""Declarations: which of the four mappings a middleware wraps, and what it says of its place among others."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from .errors import ComposeError, nearest
from .registry import registry, snake

MAPPINGS = ("loss", "grad", "update", "step")
T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a middleware says of itself.

    wraps: of `loss`, `grad`, `update`, `step`; needs: capabilities another must provide, outside of this one unless `before`
    says otherwise; provides: capabilities of its own, of which a program holds one each; before / after: names or
    capabilities it stands outside / inside of, where the program holds them.
    """

    wraps: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@overload
def middleware(name: T, /) -> T: ...
@overload
def middleware(
    name: str | None = None,
    *,
    wraps: str | Iterable[str] = (),
    needs: str | Iterable[str] = (),
    provides: str | Iterable[str] = (),
    before: str | Iterable[str] = (),
    after: str | Iterable[str] = (),
) -> Callable[[T], T]: ...
def middleware(
    name: Any = None,
    *,
    wraps: str | Iterable[str] = (),
    needs: str | Iterable[str] = (),
    provides: str | Iterable[str] = (),
    before: str | Iterable[str] = (),
    after: str | Iterable[str] = (),
) -> Any:
    """Register a middleware and say where it belongs; the target is returned unchanged.

    A class wraps each of the four mappings that it has a method for (`def update(self, inner): ... return outer`); a
    function `(inner, **options) -> outer` must say what it wraps. Raises ComposeError where that cannot be known,
    RegistryError on a collision.
    """

    def declare(target: Any) -> Any:
        own = _names(wraps) or wrapped_by(target)
        _check_wraps(target, own)
        registry.register("middleware", name if isinstance(name, str) else snake(target.__name__), target)
        target.__mapsto__ = Declared(
            wraps=own, needs=_names(needs), provides=_names(provides), before=_names(before), after=_names(after)
        )
        return target

    return declare(name) if callable(name) else declare


def _names(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _check_wraps(target: Any, wraps: tuple[str, ...]) -> None:
    name = target.__name__
    for mapping in wraps:
        if mapping not in MAPPINGS:
            raise ComposeError(f"middleware {name!r} wraps {mapping!r}; {nearest(mapping, MAPPINGS)}")
        if inspect.isclass(target) and not callable(getattr(target, mapping, None)):
            raise ComposeError(f"middleware {name!r} says that it wraps {mapping!r} and has no method {mapping}(self, inner)")
    if not wraps and not inspect.isclass(target):
        raise ComposeError(
            f"middleware function {name!r} does not say what it wraps: "
            f'write @mapsto.middleware(wraps="update"), one of {", ".join(MAPPINGS)}'
        )


def wrapped_by(target: Any) -> tuple[str, ...]:
    """The mappings that a middleware class (or instance) has a method for; none for a function."""
    cls = target if inspect.isclass(target) else type(target)
    return tuple(m for m in MAPPINGS if callable(getattr(cls, m, None)))


def declared(target: Any) -> Declared:
    """What a middleware (class, instance, function, or function with its options bound) declares.

    A class that declares nothing still wraps what it has methods for, and so does one that inherits a declaration.
    """
    while isinstance(target, functools.partial):
        target = target.func
    found = getattr(target, "__mapsto__", None)
    if not isinstance(found, Declared):
        return Declared(wraps=wrapped_by(target))
    cls = target if inspect.isclass(target) else type(target)
    own = "__mapsto__" in vars(cls) or "__mapsto__" in getattr(target, "__dict__", {})
    more = () if own else tuple(m for m in wrapped_by(target) if m not in found.wraps)
    return Declared(**{**vars(found), "wraps": (*found.wraps, *more)}) if more else found
