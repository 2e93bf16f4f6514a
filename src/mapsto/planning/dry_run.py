"""The dry run: what a wing steps of a spec on meshes that are not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from .estimate import Measured


class DryRun(Protocol):
    """A spec's program, stepped on ranks of meshes without data or machines; a wing's `dry_run` makes it.

    `alone` is asked first where several meshes are compared. All raise PlanError for a program that cannot be stepped without
    data, and what building it raises for a mesh that it does not fit.
    """

    @property
    def axes(self) -> Mapping[str, int]:
        """The sizes of the axes that the spec's own mesh says."""
        ...

    def refusal(self, axes: Mapping[str, int]) -> str:
        """Why the spec does not go together with such a mesh, known without a step; empty where it may."""
        ...

    def micro_shards(self, axes: Mapping[str, int]) -> int:
        """Into how many micro-shards a global batch is cut on such a mesh."""
        ...

    def alone(self) -> Measured | None:
        """A step of one record in one process; None where the wing does not tell it."""
        ...

    def steps(self, axes: Mapping[str, int], records: int, usable: int | None) -> tuple[Sequence[Measured], int | None]:
        """A step with micro-shards of so many records, on a rank of each kind that the mesh has.

        And the records of the largest micro-batch that fits into so many bytes on all of them (None: none are said).
        """
        ...
