"""The plan of a program: its middlewares in order, with the reasons, and the text that shows what wraps what.

The order of a spec's list is the default, outermost first. Declarations (`before`, `after`, `needs`) only move what
they must: the order is the stable topological sort of the list. `before="x"` stands outside x, `after="x"` inside it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from .compose import MAPPINGS, Declared, declared
from .errors import ComposeError, nearest
from .parts import resolve
from .registry import registry
from .values import Part, as_part, name_of
from .wings import DEFAULT

IN_LIST = "its place in the list"
DEFAULTS = {"step": "update after grad", "grad": "backward of loss", "update": "optimizer", "loss": "task's loss"}


@dataclass(frozen=True)
class Placed:
    """One middleware of a plan: its name, what it declares, the reasons for where it stands, and its index in the list."""

    name: str
    declared: Declared
    why: tuple[str, ...] = ()
    index: int = 0


MESH = "mesh"
"""The name of a mesh among the middlewares of a program, and the capability that it provides."""


def mesh_declared(mesh: Any) -> Declared:
    """What a mesh declares. Middlewares say for themselves that they stand outside of it (`before="mesh"`: what looks at the
    gradient of the whole batch) or inside (`after="mesh"`: what cuts one rank's batch up).
    """
    own = declared(mesh)
    return own if MESH in own.provides else replace(own, provides=(*own.provides, MESH))


def distinct(names: Iterable[str]) -> list[str]:
    """The names with `.2`, `.3`, ... behind those that were there before."""
    found: list[str] = []
    for name in names:
        label, n = name, 2
        while label in found:
            label, n = f"{name}.{n}", n + 1
        found.append(label)
    return found


def implied_mesh(mesh: Any, micro_shards: int | None, strict: bool) -> Any:
    """The mesh that a spec means: numbered micro-shards and strict sums are the work of a mesh, be it of one rank."""
    return Part("ranks", {"replicate": -1}) if mesh is None and (micro_shards is not None or strict) else mesh


TURNS = Placed("turns", Declared())
"""Stands in a plan for turns where a mesh is asked whether it suits them."""


def refuse_beside_turns(placed: Sequence[Placed]) -> None:
    """Raises ComposeError where a middleware of a whole program wraps a mapping that each turn has for itself."""
    for one in placed:
        own = [mapping for mapping in one.declared.wraps if mapping != "step"]
        if own and one.name != MESH:
            raise ComposeError(
                f"middleware {one.name!r} wraps {own[0]}, which each turn has for itself: say it in turns.NAME.middleware"
            )


def plan(middleware: Sequence[Any], mesh: Any = None, wing: str = DEFAULT, path: str = "middleware") -> list[Placed]:
    """The middlewares of a spec's list (parts, classes, functions or objects) in order, and the mesh among them, without
    building them. Everything that names or orders middlewares asks here, and a program is built in this order.
    path: of the list.

    Raises ComposeError where there is no such order, SpecError where a name is unknown.
    """
    parts = [as_part(value) for value in middleware]
    where = [f"{path}.{i}" for i in range(len(parts))]
    pairs = zip(parts, where, strict=True)
    targets = [resolve(v, "middleware", path, wing)[0] if isinstance(v, Part) else v for v, path in pairs]
    names = distinct(name_of(value) for value in parts)
    found = [(name, declared(target)) for name, target in zip(names, targets, strict=True)]
    if mesh is not None:
        found.append((MESH, mesh_declared(resolve(mesh, "mesh", "mesh", wing)[0] if isinstance(mesh, Part) else mesh)))
    return arrange(found)


def suits(mesh: Any, placed: Sequence[Placed], wing: str = DEFAULT) -> None:
    """Ask a mesh, by its static method `suits(options, plan)`, what does not go together. Raises ComposeError."""
    if isinstance(mesh, Part) and hasattr(target := resolve(mesh, "mesh", "mesh", wing)[0], "suits"):
        target.suits(mesh.args, placed)


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


# -- as text -------------------------------------------------------------------------------------------------------------
def render(placed: Sequence[Placed]) -> str:
    """What wraps what in each of the four mappings, outermost first, and why each middleware stands where it does."""
    width = max(map(len, DEFAULTS))
    lines = [f"{mapping:<{width}} = {_onion(mapping, placed)}" for mapping in DEFAULTS]
    if not placed:
        return "\n".join([*lines, "", "no middleware"]) + "\n"
    rows = [("", "middleware", "wraps", "why it stands here")]
    rows += [(str(i), p.name, _wraps(p), "; ".join((*p.why, *_unmet(p, placed)))) for i, p in enumerate(placed, 1)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
    return "\n".join([*lines, "", *table]) + "\n"


def _onion(mapping: str, placed: Sequence[Placed]) -> str:
    names = [p.name for p in placed if mapping in p.declared.wraps]
    inner = DEFAULTS[mapping]
    return f"{'( '.join(names)}( {inner} {')' * len(names)}" if names else inner


def _wraps(placed: Placed) -> str:
    return ", ".join(m for m in MAPPINGS if m in placed.declared.wraps) or "-"


def _unmet(placed: Placed, others: Sequence[Placed]) -> list[str]:
    """Declarations that move nothing and may be misspelt: they name neither a part of the plan nor a registered middleware."""
    known = {MESH} | {name for p in others for name in (p.name, p.name.partition(".")[0], *p.declared.provides)}
    known |= {entry.name for entry in registry.entries("middleware")}
    own = placed.declared
    pairs = [*(("before", name) for name in own.before), *(("after", name) for name in own.after)]
    return [f"{word}={name!r} names nothing here" for word, name in pairs if name not in known]
