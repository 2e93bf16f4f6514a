"""The axes of a mesh and their sizes: what fits the ranks there are, and which micro-shards each takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from .errors import SpecError
from .ranges import Count

AXES = ("pipeline", "replicate", "shard", "tensor")
"""In the order of the device mesh: neighbouring ranks share the last axis, whose ranks talk most."""
REST = -1
Axis = Count | Literal[-1]
"""A number of ranks; -1 is all that are left."""


def sizes(stated: Mapping[str, int], world: int) -> dict[str, int]:
    """The size of every axis for `world` ranks; one may be -1, which takes the ranks that are left. Raises SpecError."""
    for name, size in stated.items():
        if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != REST):
            raise SpecError(
                f"mesh.{name}: {size!r} is not allowed; a number of ranks of at least 1, or -1 for all that are left"
            )
    if world > 1 and all(size == 1 for size in stated.values()):  # no axis was said: data parallel
        return {**stated, "replicate": world}
    open_ = one_open(stated)
    fixed = math.prod(size for size in stated.values() if size != REST)
    said = " x ".join(f"{name} {stated[name]}" for name in AXES if stated[name] not in (1, REST)) or "1 rank"
    if open_:
        if world % fixed:
            raise SpecError(f"mesh: {world} ranks cannot be divided by {fixed} ({said})")
        return {name: world // fixed if size == REST else size for name, size in stated.items()}
    if fixed != world:
        raise SpecError(
            f"mesh: {said} is {fixed} rank{'s' if fixed > 1 else ''}, and {world} {'was' if world == 1 else 'were'} started; "
            f"start {fixed} (mapsto train SPEC --ranks {fixed}), or let one axis be -1: all that are left"
        )
    return dict(stated)


def one_open(stated: Mapping[str, int]) -> list[str]:
    """The axis that takes the ranks that are left, if any. Raises SpecError where several would."""
    found = [name for name, size in stated.items() if size == REST]
    if len(found) > 1:
        raise SpecError(f"mesh: only one axis may be -1, and {' and '.join(found)} are")
    return found


def ranks_of(stated: Mapping[str, int]) -> int | None:
    """How many ranks the axes ask for; None where one of them takes what is left, or none was said."""
    return None if REST in stated.values() else math.prod(stated.values())


def dealt(micro_shards: int, index: int, parts: int) -> tuple[int, ...]:
    """The micro-shards of data rank `index` of `parts`: in a row, as even as can be; -1 fills up those that have one less."""
    start, stop = micro_shards * index // parts, micro_shards * (index + 1) // parts
    most = -(-micro_shards // parts)
    return (*range(start, stop), *[-1] * (most - (stop - start)))
