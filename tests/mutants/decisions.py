"""Observers that stop where they should not, and their right twins."""

from __future__ import annotations

from typing import Any, ClassVar

from mapsto.core.laws import Example
from mapsto.engine.observers.early_stopping import EarlyStopping

from . import Mutant


def stops(values: list[float], patience: int, mode: str, min_delta: float) -> int | None:
    """The first evaluation without a better value for `patience` of them, not-a-number being never better."""
    best, last = None, -1
    for t, value in enumerate(values):
        if value == value:
            gain = None if best is None else (best - value if mode == "min" else value - best)
            if gain is None or gain > min_delta:
                best, last = value, t
        if t - last >= patience:
            return t
    return None


class Forgets(EarlyStopping):
    """Patience begins again at a resume."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "waited": 0}


class ForgetsBest(EarlyStopping):
    """The best value is not saved: whatever comes first after a resume is better."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best": None}


class Stateless(EarlyStopping):
    """Keeps nothing."""

    def load_state_dict(self, data: Any) -> None: ...


class Shared(EarlyStopping):
    """What it has seen is of the class: two runs in one process stop one another."""

    seen: ClassVar[dict[str, float]] = {}

    def is_better(self, value: float) -> bool:
        better = value == value and value < self.seen.get("best", float("inf")) - self.min_delta
        if better:
            self.seen["best"] = value
        return better


class NanIsBetter(EarlyStopping):
    """`not value >= best` holds of NaN."""

    def is_better(self, value: float) -> bool:
        return self.best is None or not value >= self.best - self.min_delta


class EqualIsBetter(EarlyStopping):
    """A plateau counts as progress."""

    def is_better(self, value: float) -> bool:
        return super().is_better(value) or value == self.best


class DeltaOfValue(EarlyStopping):
    """min_delta as a share of the best, which is of the other sign below zero."""

    def is_better(self, value: float) -> bool:
        if self.best is None or value != value:
            return value == value
        return value < self.best * (1 - self.min_delta) - self.min_delta


class OneLate(EarlyStopping):
    """`waited > patience`."""

    def __call__(self, event: Any) -> None:
        self.patience += 1
        super().__call__(event)
        self.patience -= 1


class Turned(EarlyStopping):
    """The mode is the other one."""

    def is_better(self, value: float) -> bool:
        if self.best is None or value != value:
            return value == value
        return value - self.best > self.min_delta


class Refuses(EarlyStopping):
    """Raises at what is not a number, and is then told no more."""

    def is_better(self, value: float) -> bool:
        if value != value:
            raise ValueError(f"{self.metric} is not a number")
        return super().is_better(value)


class RefusesAndForgets(Refuses, Forgets):
    """Raises at what is not a number, and patience begins again at a resume."""


def _mutant(bug: Any, twin: Any = EarlyStopping, **more: Any) -> Mutant:
    models = (bug.__doc__ or "").splitlines()[0]
    example = Example(args={"min_delta": 0.05} if bug is DeltaOfValue else {}, more=more)
    return Mutant(law="observer.decisions", name=bug.__name__, bug=bug, twin=twin, models=models, example=example)


MUTANTS = [
    *(_mutant(bug) for bug in (Forgets, ForgetsBest, Stateless, Shared)),
    _mutant(RefusesAndForgets, Refuses),
    *(_mutant(bug, decides=stops) for bug in (NanIsBetter, EqualIsBetter, DeltaOfValue, OneLate, Turned)),
]
