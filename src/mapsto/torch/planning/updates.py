"""Updates of a dry run after its first: what an optimizer's step makes and moves does not depend on the number of records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...planning.traffic import Traffic
from .meter import Meter


class Updates:
    """An optimizer's steps, of which those after the first are told by it and not carried out.

    before: what is done before each of them. A step is told where all that it made is state or ended with it; one that keeps or
    frees anything else, takes a closure or has hooks is carried out each time.
    """

    def __init__(self, optimizer: Any, meter: Meter, before: Callable[[], None]) -> None:
        self.meter, self.before, self._step = meter, before, optimizer.step
        self._events: list[tuple[int, int]] | None = None
        self._traffic: list[Traffic] = []
        self._first = self._until = 0
        self._told = False
        self._optimizer = optimizer
        optimizer.step = self._next

    def ended(self) -> None:
        """The program's step has ended, and what is state is known."""
        if self._told or self._events is None:
            return
        self._told = all(number >= self._first for number, _ in self._events) and all(
            self.meter.label_of(number) == "optimizer" or not self.meter.alive_now(number)
            for number in range(self._first, self._until)
        )
        temporary = [(number, change) for number, change in self._events if self.meter.label_of(number) != "optimizer"]
        self._events = temporary if self._told else None

    def _next(self, *args: Any, **kwargs: Any) -> Any:
        meter, optimizer = self.meter, self._optimizer
        self.before()
        hooked = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        if self._told and self._events is not None and not (args or kwargs or hooked):
            optimizer._opt_called = True  # as a schedule asks that counts steps
            made: dict[int, int] = {}
            for number, change in self._events:
                made[number] = meter.repeat(made.get(number), change, number)
            meter.traffic.extend(self._traffic)
            return None
        since, issued, self._first = meter.now, len(meter.traffic), meter.made
        result = self._step(*args, **kwargs)
        self._events, self._traffic, self._until = meter.events(since), meter.traffic[issued:], meter.made
        return result
