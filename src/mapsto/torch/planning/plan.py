"""The plan: meshes rehearsed, ranked, or refused with the reason."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...core.axes import AXES
from ...core.errors import ComposeError, DataError, MapstoError, PlanError, SpecError
from ...core.garbage import only_new_garbage
from ...core.parts import Part, as_part
from ...core.sizes import format_size
from ...core.spec import Spec
from ..mesh import together
from ..mesh.pipeline.staging import Staging
from .candidates import PER_NODE, candidates, fitted, format_axes, parse_mesh
from .rehearsal import Measured, Rehearsal, meshed, rehearsing
from .search import Trend, largest
from .shorter import Change, Shorter, equal_blocks
from .stages import Mail
from .traffic import Traffic, totals

Progress = Callable[[str], None]


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
class Outlook:
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


def plan(
    spec: Spec,
    example: Mapping[str, Any],
    records: int,
    injected: Mapping[str, Any],
    *,
    meshes: Sequence[str] = (),
    ranks: int | None = None,
    per_node: int = PER_NODE,
    memory: int | None = None,
    reserve: float = 0.1,
    bandwidth: int | None = None,
    progress: Progress = lambda _: None,
) -> list[Outlook]:
    """The outlook of meshes, best first: those that are stated, else all sensible ones of `ranks`, else the spec's own.

    meshes: such as `replicate=8,shard=8`; memory, bandwidth: in bytes, and bytes a second. Raises SpecError, PlanError.
    """
    if ranks is not None and ranks < 1:
        raise SpecError(f"--ranks: {ranks} is not a number of ranks of at least 1")
    if meshes:
        asked = [parse_mesh(text, ranks) for text in meshes]
    elif ranks is not None:
        asked = candidates(ranks, per_node)
    else:
        asked = [fitted({k: v for k, v in meshed(spec, {}).args.items() if k in AXES}, None)]
    limits = Limits(memory, reserve, bandwidth)
    return Planner(spec, example, records, injected, limits).rank(asked, progress)


class Planner:
    """Rehearses a spec on meshes.

    example: a batch of the reader, of which shapes and types are taken; records: of a global batch; injected: what the engine
    injects into parts (`total_steps`, `steps_per_epoch`, `seed`).
    """

    def __init__(
        self, spec: Spec, example: Mapping[str, Any], records: int, injected: Mapping[str, Any], limits: Limits | None = None
    ) -> None:
        self.spec, self.example, self.records, self.injected = spec, example, records, injected
        self.limits = limits or Limits()
        self.whole: Measured | None = None
        self.shorter: Shorter | None = None
        self.repeating = True

    def rank(self, meshes: Sequence[Mapping[str, int]], progress: Progress = lambda _: None) -> list[Outlook]:
        """The outlook of each mesh: those that fit first, the least communication before more, then the most memory left.

        What would stop every mesh (a model that cannot run without data) is raised.
        """
        with only_new_garbage():
            found = self._outlooks(meshes, progress)
        return sorted(
            found, key=lambda one: (not one.fits, one.measured is None, one.sent, one.measured.peak if one.measured else 0)
        )

    def _outlooks(self, meshes: Sequence[Mapping[str, int]], progress: Progress) -> list[Outlook]:
        if len(meshes) > 1:
            progress("one rank, to know what all meshes share")
            self.whole = self._alone()
        found = []
        for number, axes in enumerate(meshes, 1):
            found.append(self.outlook(axes))
            if len(meshes) > 1:
                progress(f"{number} of {len(meshes)}: {format_axes(axes)}: {_said(found[-1])}")
        return found

    def outlook(self, axes: Mapping[str, int]) -> Outlook:
        """What one mesh would do, or why it cannot be. Raises PlanError."""
        if reason := self._hopeless(axes):
            return Outlook(axes, reason=reason)
        try:
            return self._rehearsed(axes)
        except (PlanError, DataError):
            raise
        except MapstoError as error:
            return Outlook(axes, reason=" ".join(str(error).split()))
        except Exception as error:
            if self.whole is None:  # nothing else is planned: the traceback tells more
                raise
            said = " ".join(str(error).split())
            return Outlook(axes, reason=f"torch refuses: {type(error).__name__}: {said[:300]}")
        finally:
            _settle()

    def records_of(self, axes: Mapping[str, int]) -> int:
        """Records of the largest micro-shard."""
        return max(-(-self.records // self._micro_shards(axes)), 1)

    def _micro_shards(self, axes: Mapping[str, int]) -> int:
        args = meshed(self.spec, {}).args
        staging = Staging(args.get("microbatches"), args.get("schedule", "1f1b"), args.get("stages"), args.get("split"))
        return staging.micro_shards(self.spec.micro_shards, axes)

    def _alone(self) -> Measured | None:
        one = dict.fromkeys(AXES, 1)
        try:
            with rehearsing(self.spec, one, 0, self.example, self.injected) as rehearsal:
                blocks = equal_blocks(rehearsal.program.state.model)
                found = rehearsal.step(1)
        finally:
            _settle()
        if blocks is not None and not isinstance(self.spec.model, nn.Module):
            shorter = Shorter(self._rehearsing, blocks)
            self.shorter = shorter if shorter.tells(one, found) else None
        return found

    def _rehearsing(self, axes: Mapping[str, int], change: Change) -> AbstractContextManager[Rehearsal]:
        return rehearsing(self.spec, axes, 0, self.example, self.injected, change=change)

    def _hopeless(self, axes: Mapping[str, int]) -> str:
        """Why a mesh need not be rehearsed."""
        try:
            together.refuse(axes, (part.name for part in map(as_part, self.spec.middleware) if isinstance(part, Part)))
        except ComposeError as error:
            return " ".join(str(error).split())
        data = axes["replicate"] * axes["shard"]
        if data > self.records:
            return (
                f"a global batch of {self.records} records leaves {data - self.records} of {data} data ranks without one: "
                f"data.train.batch_size={data} or more"
            )
        usable = self.limits.usable
        if self.whole is None or usable is None:
            return ""
        least = sum(self.whole.held[k] for k in ("parameters", "gradients", "optimizer"))
        least //= axes["shard"] * axes["tensor"] * axes["pipeline"]
        if least <= usable:
            return ""
        return (
            f"parameters, gradients and optimizer alone are {format_size(least)} a rank: {format_size(least - usable)} too many"
        )

    def _rehearsed(self, axes: Mapping[str, int]) -> Outlook:
        """A step on the first rank of every stage; rank 0 of an axis holds the largest part, where parts are uneven."""
        records, usable = self.records_of(axes), self.limits.usable
        stages: list[Measured] = []
        most = None
        if self.shorter is not None and axes["pipeline"] == 1 and (told := self.shorter.told(axes, records, usable)):
            stages, most = [told[0]], told[1]
        each = axes["replicate"] * axes["shard"] * axes["tensor"]
        mail = Mail()
        for stage in range(axes["pipeline"] if not stages else 0):
            if mail.same(stage, axes["pipeline"]):
                continue
            found, most = self._stage(axes, stage * each, mail, most)
            stages.append(found)
        worst = max(stages, key=lambda stage: stage.peak)
        reason = ""
        if usable is not None and worst.peak > usable:
            reason = f"needs {format_size(worst.peak)} a rank: {format_size(worst.peak - usable)} too many"
            reason += f"; micro-batches of {most} of {records} would fit" if most else ""
        return Outlook(axes, worst, reason, most, self.limits.bandwidth, (), tuple(stages))

    def _stage(self, axes: Mapping[str, int], rank: int, mail: Mail, others: int | None) -> tuple[Measured, int | None]:
        """A step on the first rank of a stage, and the largest micro-batch that fits it and those before it."""
        records, usable = self.records_of(axes), self.limits.usable
        for repeating in (True, False) if axes["pipeline"] > 1 and self.repeating else (False,):
            with rehearsing(self.spec, axes, rank, self.example, self.injected, mail, repeating=repeating) as rehearsal:
                found = rehearsal.step(records)
                most = None if usable is None or rehearsal.unlike else _most(rehearsal, usable, found, others)
            if not rehearsal.unlike:
                break
            self.repeating = False
            _settle()
        return found, most


def _settle() -> None:
    """Collect what a rehearsal leaves (programs hold themselves in cycles); what is kept of it is not looked at again."""
    gc.collect()
    gc.freeze()


def _said(one: Outlook) -> str:
    """An outlook in a few words."""
    if one.reason or one.measured is None:
        return one.reason
    return f"peak {format_size(one.measured.peak)}, {format_size(one.sent)} sent a step"


def _most(rehearsal: Rehearsal, usable: int, first: Measured, others: int | None) -> int:
    """The largest micro-batch that fits this stage and those before it, which take `others` at most; `first`: a step of it."""
    trend = Trend({first.records: first.timeline})

    def peak(records: int) -> int:
        found = rehearsal.step(records)
        trend.add(records, found.timeline)
        return found.peak

    known = {first.records: first.peak}
    if others:
        if others not in known:
            known[others] = peak(others)
        if known[others] <= usable:  # what is more does not fit another stage
            return others
    return 0 if others == 0 else largest(peak, usable, known, trend)
