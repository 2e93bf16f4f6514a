"""The plan of a program: its middlewares in order, and the text that shows what wraps what and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from .compose import MAPPINGS, Declared, Placed, arrange, declared
from .parts import resolve
from .registry import registry
from .values import Part, as_part, name_of
from .wings import DEFAULT

DEFAULTS = {"step": "update after grad", "grad": "backward of loss", "update": "optimizer", "loss": "task's loss"}


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


def plan(middleware: Sequence[Any], mesh: Any = None, wing: str = DEFAULT) -> list[Placed]:
    """The middlewares of a spec's list (parts, classes, functions or objects) in order, and the mesh among them, without
    building them. Everything that names or orders middlewares asks here, and a program is built in this order.

    Raises ComposeError where there is no such order, SpecError where a name is unknown.
    """
    parts = [as_part(value) for value in middleware]
    where = [f"middleware.{i}" for i in range(len(parts))]
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
