"""How a wing's schedules are built, stepped, saved and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ...core.laws import Trial


class Schedule(Protocol):
    """A schedule that was built, and that whose rate it sets, before update 0."""

    bases: Sequence[float]
    """The rate of each parameter group as it was stated; one where the framework's schedules know no groups."""

    def settings(self) -> list[dict[str, float]]:
        """For each group the numbers that a schedule may set, by name: `lr`, and perhaps a momentum."""
        ...

    def reported_rates(self) -> list[float] | None:
        """The rate of each group in the schedule's own words; None where it has none beside `settings`."""
        ...

    def advance(self, t: int) -> None:
        """Update t, and the step of the schedule after it; what it watches is `schedule_inputs.metric(t)`."""
        ...

    def save(self) -> Any:
        """Its state as a checkpoint would keep it, independent of what comes after."""
        ...

    def load(self, saved: Any, order: str) -> None:
        """Put back what `save` gave, in one of the driver's orders."""
        ...


class ScheduleDriver(Protocol):
    """How schedules are driven: `build` gives a fresh one."""

    orders: Sequence[str]
    """The orders in which what was saved may be put back (`optimizer first`, `schedule first`); at least one."""

    def build(self, trial: Trial, *, variant: Mapping[str, Any] | None = None) -> Schedule:
        """A fresh one with the example's arguments, or with those of a variant (`schedule_inputs.arguments`)."""
        ...
