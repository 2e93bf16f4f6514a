"""Composition: which middleware wraps what, in which order, and why.

The order of a spec's list is the default, outermost first. Declarations (`before`, `after`, `needs`) only move what
they must: the order is the stable topological sort of the list. `before="x"` stands outside x, `after="x"` inside it.
"""

from __future__ import annotations

import heapq
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import ComposeError, nearest
from .registry import registry, snake

MAPPINGS = ("loss", "grad", "update", "step")
T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a middleware says of itself.

    wraps: of `loss`, `grad`, `update`, `step`; needs: capabilities another must provide; provides: capabilities of its
    own, of which a program holds one each; before / after: names or capabilities it stands outside / inside of.
    """

    wraps: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placed:
    """One middleware of a plan: its name, what it declares, and the reasons for where it stands."""

    name: str
    declared: Declared
    why: tuple[str, ...] = ()
    index: int = 0


def _names(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def middleware(
    name: str | Callable[..., Any] | None = None,
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

    def declare(target: T) -> T:
        own = _names(wraps) or wrapped_by(target)
        if unknown := [w for w in own if w not in MAPPINGS]:
            raise ComposeError(f"middleware {target.__name__!r} wraps {unknown[0]!r}; {nearest(unknown[0], MAPPINGS)}")
        if not own and not inspect.isclass(target):
            raise ComposeError(
                f"middleware function {target.__name__!r} does not say what it wraps: "
                f'write @mapsto.middleware(wraps="update"), one of {", ".join(MAPPINGS)}'
            )
        target.__mapsto__ = Declared(  # type: ignore[attr-defined]
            wraps=own, needs=_names(needs), provides=_names(provides), before=_names(before), after=_names(after)
        )
        label = name if isinstance(name, str) else None
        registry.register("middleware", label or snake(target.__name__), target)
        return target

    return declare(name) if callable(name) else declare


def wrapped_by(target: Any) -> tuple[str, ...]:
    """The mappings that a middleware class (or instance) has a method for."""
    cls = target if inspect.isclass(target) else type(target)
    return tuple(m for m in MAPPINGS if callable(getattr(cls, m, None))) if not inspect.isfunction(target) else ()


def declared(target: Any) -> Declared:
    """What a middleware declares; a class that declares nothing still wraps what it has methods for."""
    found = getattr(target, "__mapsto__", None)
    if isinstance(found, Declared):
        return found
    return Declared(wraps=wrapped_by(target))


def arrange(items: Sequence[tuple[str, Declared]]) -> list[Placed]:
    """The stable topological order of `(name, declared)` pairs, outermost first, each with its reasons.

    Raises ComposeError on a cycle (every edge of it is named), a capability that is needed and not provided, or one
    that two provide.
    """
    providers: dict[str, list[int]] = {}
    for i, (_, own) in enumerate(items):
        for capability in own.provides:
            providers.setdefault(capability, []).append(i)
    for capability, who in providers.items():
        if len(who) > 1:
            pair = " and ".join(repr(items[i][0]) for i in who)
            raise ComposeError(f"middlewares {pair} both provide {capability!r}: keep one of them")

    outside: list[dict[int, str]] = [{} for _ in items]  # outside[i][j]: j must stand outside i, and the reason
    for i, (name, own) in enumerate(items):
        for target in own.before:
            for j in _matching(items, target, i):
                outside[j].setdefault(i, f"{name} says before={target!r}")
        for target in own.after:
            for j in _matching(items, target, i):
                outside[i].setdefault(j, f"{name} says after={target!r}")
        for capability in own.needs:
            if capability not in providers:
                every = [p for _, other in items for p in other.provides]
                raise ComposeError(
                    f"middleware {name!r} needs {capability!r}, which nothing in this plan provides; "
                    + (nearest(capability, every) if every else "no middleware of it provides anything")
                )
            for j in providers[capability]:
                if j != i and i not in outside[j]:
                    outside[i].setdefault(j, f"{name} needs {capability!r}, provided by {items[j][0]}")
    return _sorted(items, outside)


def _sorted(items: Sequence[tuple[str, Declared]], outside: list[dict[int, str]]) -> list[Placed]:
    waiting = [len(reasons) for reasons in outside]
    ready = [i for i, n in enumerate(waiting) if n == 0]
    heapq.heapify(ready)
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
    return [Placed(items[i][0], items[i][1], tuple(outside[i].values()) or ("its place in the list",), i) for i in order]


def _matching(items: Sequence[tuple[str, Declared]], target: str, itself: int) -> list[int]:
    return [j for j, (name, own) in enumerate(items) if j != itself and (name == target or target in own.provides)]


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
        for inner, outer in zip(path, path[1:], strict=False)
    ]
    return "these middlewares cannot be put in one order:\n" + "\n".join(lines)
