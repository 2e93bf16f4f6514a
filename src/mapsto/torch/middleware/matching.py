"""Modules by the shell-style patterns of their names."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from torch import nn

from ...core.errors import SpecError, nearest


def matching_modules(model: nn.Module, patterns: Iterable[str], where: str) -> dict[str, nn.Module]:
    """The modules whose name matches, outermost ones only: what lies within a match belongs to it.

    Raises SpecError with the nearest module name where a pattern matches none.
    """
    every = {name: module for name, module in model.named_modules() if name}
    hits: set[str] = set()
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        found = fnmatch.filter(every, pattern)
        if not found:
            raise SpecError(f"{where}: no module matches {pattern!r}; {nearest(pattern, every)}")
        hits.update(found)
    return {name: module for name, module in every.items() if name in hits and not _within(name, hits)}


def _within(name: str, hits: set[str]) -> bool:
    parents = name.split(".")[:-1]
    return any(".".join(parents[: i + 1]) in hits for i in range(len(parents)))
