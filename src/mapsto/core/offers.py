"""Which parts of a spec take what the run offers them: `total_steps` and the like, wherever the spec leaves them open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .parts import OFFERED, Checked, check, stated
from .spec import Spec
from .values import Part


def takers(spec: Spec, offer: str) -> list[str]:
    """Paths of the parts that are given the offer of that name, nested parts too; readers are only ever given the seed.

    Raises SpecError where a part does not fit its target.
    """
    found = []
    for path, kind, part in spec.parts():
        if isinstance(part, Part) and kind not in ("reader", "observer"):
            found += list(_within(check(part, kind, path, offers=OFFERED, wing=spec.wing), offer))
    return found


def _within(value: Any, offer: str) -> Iterator[str]:
    if isinstance(value, Checked):
        if offer in stated(value.target, value.kind).named and offer not in value.args:
            yield value.path
        value = value.args
    if isinstance(value, dict):
        value = list(value.values())
    for item in value if isinstance(value, (list, tuple)) else ():
        yield from _within(item, offer)
