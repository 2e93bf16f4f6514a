"""The plan: meshes of which a wing steps the program, ranked, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.errors import DataError, MapstoError, PlanError, SpecError
from ..core.garbage import collect_and_freeze, only_new_garbage
from ..core.sizes import format_size
from ..core.spec import Spec
from ..engine.wing import find_wing
from .candidates import PER_NODE, candidates, fitted, format_axes, parse_mesh
from .dry_run import DryRun
from .estimate import Limits, Measured, MeshEstimate

Progress = Callable[[str], None]


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
) -> list[MeshEstimate]:
    """The estimates of meshes, best first: those that are stated, else all sensible ones of `ranks`, else the spec's own.

    meshes: such as `replicate=8,shard=8`; memory, bandwidth: in bytes, and bytes a second. Raises SpecError, PlanError.
    """
    if ranks is not None and ranks < 1:
        raise SpecError(f"--ranks: {ranks} is not a number of ranks of at least 1")
    planner = Planner(spec, example, records, injected, Limits(memory, reserve, bandwidth))
    if meshes:
        asked = [parse_mesh(text, ranks) for text in meshes]
    elif ranks is not None:
        asked = candidates(ranks, per_node)
    else:
        asked = [fitted(planner.dry_run.axes, None)]
    return planner.rank(asked, progress)


def dry_run(spec: Spec, example: Mapping[str, Any], injected: Mapping[str, Any]) -> DryRun:
    """What the spec's wing steps of it. Raises SpecError for a wing that steps nothing without data and machines."""
    make = getattr(find_wing(spec.wing), "dry_run", None)
    if make is None:
        raise SpecError(
            f"wing: {spec.wing} steps no program without data and machines (it has no `dry_run`), so its meshes are not planned"
        )
    found: DryRun = make(spec, example, injected)
    return found


class Planner:
    """Estimates what meshes make of a spec.

    example: a batch of the reader, of which shapes and types are taken; records: of a global batch; injected: what the engine
    injects into parts (`total_steps`, `steps_per_epoch`, `seed`).
    """

    def __init__(
        self, spec: Spec, example: Mapping[str, Any], records: int, injected: Mapping[str, Any], limits: Limits | None = None
    ) -> None:
        self.spec, self.records, self.limits = spec, records, limits or Limits()
        self.dry_run = dry_run(spec, example, injected)
        self.whole: Measured | None = None

    def rank(self, meshes: Sequence[Mapping[str, int]], progress: Progress = lambda _: None) -> list[MeshEstimate]:
        """The estimate of each mesh: those that fit first, the least communication before more, then the most memory left.

        What would stop every mesh (a model that cannot run without data) is raised.
        """
        with only_new_garbage():
            found = self._estimates(meshes, progress)
        return sorted(
            found, key=lambda one: (not one.fits, one.measured is None, one.sent, one.measured.peak if one.measured else 0)
        )

    def _estimates(self, meshes: Sequence[Mapping[str, int]], progress: Progress) -> list[MeshEstimate]:
        if len(meshes) > 1:
            progress("one rank, to know what all meshes share")
            self.whole = self.dry_run.alone()
        found = []
        for number, axes in enumerate(meshes, 1):
            found.append(self.estimate(axes))
            if len(meshes) > 1:
                progress(f"{number} of {len(meshes)}: {format_axes(axes)}: {_said(found[-1])}")
        return found

    def estimate(self, axes: Mapping[str, int]) -> MeshEstimate:
        """What one mesh would do, or why it cannot be. Raises PlanError."""
        if reason := self._hopeless(axes):
            return MeshEstimate(axes, reason=reason)
        try:
            return self._stepped(axes)
        except (PlanError, DataError):
            raise
        except MapstoError as error:
            return MeshEstimate(axes, reason=" ".join(str(error).split()))
        except Exception as error:
            if self.whole is None:  # nothing else is planned: the traceback tells more
                raise
            said = " ".join(str(error).split())
            return MeshEstimate(axes, reason=f"{self.spec.wing} refuses: {type(error).__name__}: {said[:300]}")
        finally:
            collect_and_freeze()

    def records_of(self, axes: Mapping[str, int]) -> int:
        """Records of the largest micro-shard."""
        return max(-(-self.records // self.dry_run.micro_shards(axes)), 1)

    def _hopeless(self, axes: Mapping[str, int]) -> str:
        """Why a mesh need not be stepped."""
        if reason := self.dry_run.refusal(axes):
            return reason
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

    def _stepped(self, axes: Mapping[str, int]) -> MeshEstimate:
        """What the ranks of the mesh were seen to need."""
        records, usable = self.records_of(axes), self.limits.usable
        stages, most = self.dry_run.steps(axes, records, usable)
        worst = max(stages, key=lambda stage: stage.peak)
        reason = ""
        if usable is not None and worst.peak > usable:
            reason = f"needs {format_size(worst.peak)} a rank: {format_size(worst.peak - usable)} too many"
            reason += f"; micro-batches of {most} of {records} would fit" if most else ""
        return MeshEstimate(axes, worst, reason, most, self.limits.bandwidth, (), tuple(stages))


def _said(one: MeshEstimate) -> str:
    """An estimate in a few words."""
    if one.reason or one.measured is None:
        return one.reason
    return f"peak {format_size(one.measured.peak)}, {format_size(one.sent)} sent a step"
