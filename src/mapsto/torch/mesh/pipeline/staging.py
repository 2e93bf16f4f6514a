"""How a pipeline is run, as a mesh says it: micro-batches, schedule, stages, and what it does not go together with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ....core.errors import SpecError


class Staging:
    """microbatches: of a data rank in a step; schedule: `1f1b` (Narayanan et al. 2019), `gpipe` (Huang et al. 2019) or
    `interleaved` (Narayanan et al. 2021); stages: of a rank; split: modules at which stages after the first begin."""

    def __init__(self, microbatches: int | None, schedule: str, stages: int | None, split: Sequence[str] | None) -> None:
        if schedule == "interleaved" and stages == 1:
            raise SpecError("mesh.stages: interleaved schedules take turns between 2 or more stages of a rank, not 1")
        if schedule != "interleaved" and (stages or 1) > 1:
            raise SpecError(f"mesh.stages: {schedule} has 1 stage a rank; several are for mesh.schedule: interleaved")
        self.microbatches, self.schedule, self.split = microbatches, schedule, split
        self.stages = stages or (2 if schedule == "interleaved" else 1)

    def micro_shards(self, stated: int | None, sizes: Mapping[str, int]) -> int:
        """The micro-shards of a global batch: those stated; else one a data rank, or as many as its pipeline has micro-batches.

        Raises SpecError where both are said and differ.
        """
        data = sizes["replicate"] * sizes["shard"]
        if sizes["pipeline"] == 1:
            return stated or data
        wanted = None if self.microbatches is None else self.microbatches * data
        if stated is not None and wanted is not None and stated != wanted:
            raise SpecError(
                f"mesh.microbatches: {self.microbatches} on {data} data rank{'s' if data > 1 else ''} are {wanted} "
                f"micro-shards of a global batch, and micro_shards says {stated}"
            )
        return stated or wanted or data * self.stages * sizes["pipeline"]
