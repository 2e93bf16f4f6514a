"""Traffic: what a rank takes part in moving, one collective at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Traffic:
    """One collective: its name, its whole size in bytes on one rank (what is reduced, or what is gathered), the number of
    ranks that take part, and the axis of the mesh that they lie along, where it is one."""

    collective: str
    bytes: int
    ranks: int
    axis: str = ""

    @property
    def sent(self) -> float:
        """Bytes that leave a rank where the collective is done on a ring (Patarasuk & Yuan 2009)."""
        share = (self.ranks - 1) / self.ranks
        factor = {"all-reduce": 2 * share, "send": 1.0, "receive": 0.0}
        return self.bytes * factor.get(self.collective, share)


def totals(traffic: Iterable[Traffic]) -> dict[str, int]:
    """Bytes by collective, of those that more than one rank takes part in."""
    found: dict[str, int] = {}
    for one in traffic:
        if one.ranks > 1:
            found[one.collective] = found.get(one.collective, 0) + one.bytes
    return dict(sorted(found.items()))
