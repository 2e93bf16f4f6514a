"""Meshes on which a spec's program is stepped without data and machines (`mapsto.planning.dry_run.DryRun`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from ...core.axes import AXES
from ...core.errors import ComposeError
from ...core.garbage import collect_and_freeze
from ...core.parts import Part, as_part
from ...core.spec import Spec
from ...planning.estimate import Measured
from ...planning.search import Trend, largest
from ..mesh import together
from ..mesh.pipeline.staging import Staging
from .dry_run import DryRun, dry_run, meshed
from .shorter import Change, Shorter, equal_blocks
from .stages import Mail


class Meshes:
    """A spec's program on one rank of each kind of a mesh.

    example: a batch of the reader, of which shapes and types are taken; injected: what the engine injects into parts.
    """

    def __init__(self, spec: Spec, example: Mapping[str, Any], injected: Mapping[str, Any]) -> None:
        self.spec, self.example, self.injected = spec, example, injected
        self.shorter: Shorter | None = None
        self.repeating = True

    @property
    def axes(self) -> Mapping[str, int]:
        """The sizes of the axes that the spec's own mesh says."""
        return {name: size for name, size in meshed(self.spec, {}).args.items() if name in AXES}

    def refusal(self, axes: Mapping[str, int]) -> str:
        """Why axes, or an axis and a middleware, do not go together."""
        try:
            together.refuse(axes, (part.name for part in map(as_part, self.spec.middleware) if isinstance(part, Part)))
        except ComposeError as error:
            return " ".join(str(error).split())
        return ""

    def micro_shards(self, axes: Mapping[str, int]) -> int:
        """Into how many micro-shards a global batch is cut."""
        args = meshed(self.spec, {}).args
        staging = Staging(args.get("microbatches"), args.get("schedule", "1f1b"), args.get("stages"), args.get("split"))
        return staging.micro_shards(self.spec.micro_shards, axes)

    def alone(self) -> Measured:
        """A step of one record in one process, with which it is seen whether fewer blocks tell of all."""
        one = dict.fromkeys(AXES, 1)
        try:
            with dry_run(self.spec, one, 0, self.example, self.injected) as run:
                blocks = equal_blocks(run.program.state.model)
                found = run.step(1)
        finally:
            collect_and_freeze()
        if blocks is not None and not isinstance(self.spec.model, nn.Module):
            shorter = Shorter(self._changed, blocks)
            self.shorter = shorter if shorter.tells(one, found) else None
        return found

    def _changed(self, axes: Mapping[str, int], change: Change) -> AbstractContextManager[DryRun]:
        return dry_run(self.spec, axes, 0, self.example, self.injected, change=change)

    def steps(self, axes: Mapping[str, int], records: int, usable: int | None) -> tuple[list[Measured], int | None]:
        """A step on the first rank of every stage; rank 0 of an axis holds the largest part, where parts are uneven."""
        if self.shorter is not None and axes["pipeline"] == 1 and (told := self.shorter.told(axes, records, usable)):
            return [told[0]], told[1]
        stages: list[Measured] = []
        most = None
        each = axes["replicate"] * axes["shard"] * axes["tensor"]
        mail = Mail()
        for stage in range(axes["pipeline"]):
            if not mail.same(stage, axes["pipeline"]):
                found, most = self._stage(axes, stage * each, mail, records, usable, most)
                stages.append(found)
        return stages, most

    def _stage(
        self, axes: Mapping[str, int], rank: int, mail: Mail, records: int, usable: int | None, others: int | None
    ) -> tuple[Measured, int | None]:
        """A step on the first rank of a stage, and the largest micro-batch that fits it and those before it (`others`)."""
        for repeating in (True, False) if axes["pipeline"] > 1 and self.repeating else (False,):
            with dry_run(self.spec, axes, rank, self.example, self.injected, mail, repeating=repeating) as run:
                found = run.step(records)
                most = None if usable is None or run.unlike else _most(run, usable, found, others)
            if not run.unlike:
                break
            self.repeating = False
            collect_and_freeze()
        return found, most


def _most(run: DryRun, usable: int, first: Measured, others: int | None) -> int:
    """The largest micro-batch that fits this stage and those before it, which take `others` at most; `first`: a step of it."""
    trend = Trend({first.records: first.timeline})

    def peak(records: int) -> int:
        found = run.step(records)
        trend.add(records, found.timeline)
        return found.peak

    known = {first.records: first.peak}
    if others:
        if others not in known:
            known[others] = peak(others)
        if known[others] <= usable:  # what is more does not fit another stage
            return others
    return 0 if others == 0 else largest(peak, usable, known, trend)
