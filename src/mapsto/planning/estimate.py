"""Estimates: what a mesh would need and move, of which its ranks' steps were measured, and how it stands to what there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .timeline import Timeline
from .traffic import Traffic, totals


@dataclass(frozen=True)
class Measured:
    """A step on one rank, in bytes: what is held between steps, the peak within one and what it was made of, and traffic.

    records: of each micro-shard; passes: micro-shards that the rank computes in a step.
    """

    rank: int
    records: int
    passes: int
    held: Mapping[str, int]
    peak: int
    at_peak: Mapping[str, int]
    traffic: tuple[Traffic, ...]
    timeline: Timeline = field(repr=False, compare=False)


@dataclass(frozen=True)
class Limits:
    """What there is: bytes of memory a rank, of which a share is kept free, and bytes a second that leave a rank.

    reserve: for what is not counted, such as an allocator's fragmentation and the buffers of a communication library.
    """

    memory: int | None = None
    reserve: float = 0.1
    bandwidth: int | None = None

    @property
    def usable(self) -> int | None:
        return None if self.memory is None else int(self.memory * (1 - self.reserve))


@dataclass(frozen=True)
class MeshEstimate:
    """What a mesh would do: of the rank that needs most, a measured step; or the reason why it cannot be.

    largest: records of the largest micro-batch that fits (None: no limit was said, or it was not looked for).
    """

    axes: Mapping[str, int]
    measured: Measured | None = None
    reason: str = ""
    largest: int | None = None
    bandwidth: int | None = None
    remarks: tuple[str, ...] = ()
    stages: tuple[Measured, ...] = field(default=(), repr=False)

    @property
    def fits(self) -> bool:
        return self.measured is not None and not self.reason

    @property
    def ranks(self) -> int:
        count = 1
        for size in self.axes.values():
            count *= size
        return count

    @property
    def traffic(self) -> tuple[Traffic, ...]:
        """Of the rank that sends most."""
        return max((stage.traffic for stage in self.stages), key=_sent, default=())

    @property
    def sent(self) -> float:
        """Bytes that leave that rank in a step."""
        return _sent(self.traffic)

    @property
    def seconds(self) -> float | None:
        """Of communication in a step, none of it hidden behind computation."""
        return None if self.bandwidth is None else self.sent / self.bandwidth

    def moved(self) -> list[tuple[str, str, int, int, int, float]]:
        """(collective, axis, ranks, calls, bytes, bytes sent) of what that rank takes part in, most sent first."""
        groups: dict[tuple[str, str, int], list[Traffic]] = {}
        for one in self.traffic:
            if one.ranks > 1:
                groups.setdefault((one.collective, one.axis, one.ranks), []).append(one)
        rows = [(*key, len(group), sum(t.bytes for t in group), _sent(group)) for key, group in groups.items()]
        return sorted(rows, key=lambda row: -row[-1])

    def to_data(self) -> dict[str, Any]:
        """Plain data, bytes throughout."""
        found: dict[str, Any] = {"mesh": dict(self.axes), "ranks": self.ranks, "fits": self.fits}
        if self.reason:
            found["reason"] = self.reason
        if (one := self.measured) is not None:
            found |= {
                "rank": one.rank,
                "micro_batch": one.records,
                "micro_shards_a_rank": one.passes,
                "peak": one.peak,
                "at_peak": dict(one.at_peak),
                "held": dict(one.held),
                "communicated": totals(self.traffic),
                "collectives": [
                    dict(zip(("collective", "axis", "ranks", "calls", "bytes", "sent"), row, strict=True))
                    for row in self.moved()
                ],
                "sent": round(self.sent),
            }
        more = {"largest_micro_batch": self.largest, "communication_seconds": self.seconds}
        return found | {k: v for k, v in more.items() if v is not None} | ({"remarks": self.remarks} if self.remarks else {})


def _sent(traffic: Iterable[Traffic]) -> float:
    return sum(one.sent for one in traffic)
