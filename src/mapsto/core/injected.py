"""Which parts of a spec take values that the run injects: `total_steps` and the like, wherever the spec leaves them open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .parts import INJECTED, Checked, check, stated
from .spec import Spec
from .values import Part


def takers(spec: Spec, name: str) -> list[str]:
    """Paths of the parts into which the value of that name is injected, nested ones too; into readers only the seed ever is.

    Raises SpecError where a part does not fit its target.
    """
    found = []
    for path, kind, part in spec.parts():
        if isinstance(part, Part) and kind not in ("reader", "observer"):
            found += list(_within(check(part, kind, path, injected=INJECTED, wing=spec.wing), name))
    return found


def _within(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Checked):
        if name in stated(value.target, value.kind).named and name not in value.args:
            yield value.path
        value = value.args
    if isinstance(value, dict):
        value = list(value.values())
    for item in value if isinstance(value, (list, tuple)) else ():
        yield from _within(item, name)
