"""The schedules of the wing; each is an entry `schedule/...` in pyproject.toml."""

from __future__ import annotations

import mapsto

from .framework import Schedule


class Halving(Schedule):
    """Half the rate every `period` updates."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period

    def factor(self) -> float:
        """1, ..., 1, 1/2, ..."""
        return float(0.5 ** (self.updates // self.period))


# The closed form, which the law `schedule.formula` holds it to at every step.
mapsto.example(Halving, args={"period": 4}, formula=lambda t, base, period: base * 0.5 ** (t // period))
