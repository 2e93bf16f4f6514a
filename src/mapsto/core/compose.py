"""Composition: which middleware wraps what, in which order, and why.

The order of a spec's list is the default, outermost first. Declarations (`before`, `after`, `needs`) only move what
they must: the order is the stable topological sort of the list. `before="x"` stands outside x, `after="x"` inside it.
"""

from __future__ import annotations

import functools
import heapq
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, overload

from .errors import ComposeError, nearest
from .registry import registry, snake

MAPPINGS = ("loss", "grad", "update", "step")
IN_LIST = "its place in the list"
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


@dataclass(frozen=True)
class Placed:
    """One middleware of a plan: its name, what it declares, the reasons for where it stands, and its index in the list."""

    name: str
    declared: Declared
    why: tuple[str, ...] = ()
    index: int = 0


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


# -- order -------------------------------------------------------------------------------------------------------------
def arrange(items: Sequence[tuple[str, Declared]]) -> list[Placed]:
    """The stable topological order of `(name, declared)` pairs, outermost first, each with its reasons.

    Of all orders that keep every declaration it is the one that is first when compared by list index. Raises ComposeError
    on a cycle (every edge of it is named), a capability that is needed and not provided, or one that two provide.
    """
    providers = _providers(items)
    outside: list[dict[int, str]] = [{} for _ in items]  # outside[i][j]: j must stand outside i, and the reason
    for i, (name, own) in enumerate(items):
        for target in own.before:
            for j in _matching(items, target, i):
                outside[j].setdefault(i, f"{name} says before={target!r}")
        for target in own.after:
            for j in _matching(items, target, i):
                outside[i].setdefault(j, f"{name} says after={target!r}")
    stated = [set(reasons) for reasons in outside]  # a need stands back where the pair has said its order
    for i, (name, own) in enumerate(items):
        for capability in own.needs:
            j = providers[capability]
            if j != i and i not in stated[j]:
                outside[i].setdefault(j, f"{name} needs {capability!r}, provided by {items[j][0]}")
    return _sorted(items, outside)


def _providers(items: Sequence[tuple[str, Declared]]) -> dict[str, int]:
    """Who provides each capability; raises where two do, or where one that is needed has none."""
    providers: dict[str, int] = {}
    for i, (name, own) in enumerate(items):
        for capability in own.provides:
            if (other := providers.setdefault(capability, i)) != i:
                pair = f"{items[other][0]!r} and {name!r}"
                raise ComposeError(f"middlewares {pair} both provide {capability!r}: keep one of them")
    for name, own in items:
        for capability in own.needs:
            if capability not in providers:
                there = nearest(capability, providers) if providers else "no middleware of it provides anything"
                raise ComposeError(f"middleware {name!r} needs {capability!r}, which nothing in this plan provides; {there}")
    return providers


def _matching(items: Sequence[tuple[str, Declared]], target: str, itself: int) -> list[int]:
    return [
        j
        for j, (name, own) in enumerate(items)
        if j != itself and (name == target or name.partition(".")[0] == target or target in own.provides)
    ]


def _sorted(items: Sequence[tuple[str, Declared]], outside: list[dict[int, str]]) -> list[Placed]:
    waiting = [len(reasons) for reasons in outside]
    ready = [i for i, n in enumerate(waiting) if n == 0]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j, reasons in enumerate(outside):
            if i in reasons:
                waiting[j] -= 1
                if waiting[j] == 0:
                    heapq.heappush(ready, j)
    if len(order) < len(items):
        raise ComposeError(_cycle(items, outside, set(range(len(items))) - set(order)))
    return [Placed(*items[i], _reasons(i, outside), i) for i in order]


def _reasons(i: int, outside: list[dict[int, str]]) -> tuple[str, ...]:
    """Why i stands inside of others, then why outside of others."""
    found = [*outside[i].values(), *(reasons[i] for reasons in outside if i in reasons)]
    return tuple(dict.fromkeys(found)) or (IN_LIST,)


def _cycle(items: Sequence[tuple[str, Declared]], outside: list[dict[int, str]], stuck: set[int]) -> str:
    path = [min(stuck)]
    while True:
        following = next(j for j in outside[path[-1]] if j in stuck)
        if following in path:
            path = [*path[path.index(following) :], following]
            break
        path.append(following)
    lines = [
        f"  {items[outer][0]!r} must stand outside {items[inner][0]!r}: {outside[inner][outer]}"
        for inner, outer in pairwise(path)
    ]
    return "these middlewares cannot be put in one order:\n" + "\n".join(lines)
