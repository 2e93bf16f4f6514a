"""The laws of schedules judge those of a framework they never heard of: plain classes, driven in thirty lines of NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mapsto.core.laws import Example, Subject, Trial, Verdict, find_law, verdict
from mapsto.laws.schedule_inputs import RATES, arguments, demand_arguments


class Halving:
    """Half the rate every `period` updates, for arrays of rates."""

    def __init__(self, period: int) -> None:
        self.period, self.count = period, 0

    def factor(self) -> float:
        return 0.5 ** (self.count // self.period)

    def rates(self, bases: Any) -> Any:
        return bases * self.factor()

    def step(self) -> None:
        self.count += 1

    def state(self) -> dict[str, Any]:
        return {"count": self.count}

    def restore(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Late(Halving):
    def factor(self) -> float:
        return 0.5 ** (max(self.count - 1, 0) // self.period)


class Forgets(Halving):
    def state(self) -> dict[str, Any]:
        return {"count": 0}


class OneRate(Halving):
    def rates(self, bases: Any) -> Any:
        return np.full_like(bases, bases[0] * self.factor())


@dataclass
class Driven:
    schedule: Halving
    bases: Any

    def settings(self) -> list[dict[str, float]]:
        return [{"lr": float(rate)} for rate in self.schedule.rates(np.array(self.bases))]

    def reported_rates(self) -> None:
        return None

    def advance(self, t: int) -> None:
        del t
        self.schedule.step()

    def save(self) -> dict[str, Any]:
        return self.schedule.state()

    def load(self, saved: dict[str, Any], order: str) -> None:
        del order
        self.schedule.restore(saved)


class Driver:
    orders = ("the schedule alone",)

    def build(self, trial: Trial, *, variant: Mapping[str, Any] | None = None) -> Driven:
        demand_arguments(trial)
        return Driven(trial.subject.target(**arguments(trial, variant)), RATES)


def judged(target: type, law: str, driver: Any = Driver) -> Verdict:
    example = Example(
        args={"period": 4}, more={"formula": lambda t, base, period: base * 0.5 ** (t // period), "variants": ({"period": 1},)}
    )
    subject = Subject(
        kind="schedule", label=target.__name__, reference="", target=target, example=example, driver=driver and driver()
    )
    return verdict(Trial(subject, find_law(law)))


@pytest.mark.parametrize("law", ["formula", "resume", "group_ratios"])
def test_a_right_one_keeps_them(law: str) -> None:
    made = judged(Halving, f"schedule.{law}")
    assert made.status == "pass", made.reason
    assert sum(made.counts.values()) >= 30


@pytest.mark.parametrize(
    ("target", "law", "cause"),
    [
        (Late, "formula", "it is one step late"),
        (Forgets, "resume", "one step late after the restore"),
        (OneRate, "group_ratios", "one rate is written into every group"),
    ],
)
def test_a_wrong_one_is_caught_with_its_cause(target: type, law: str, cause: str) -> None:
    made = judged(target, f"schedule.{law}")
    assert made.status == "fail", made.reason
    assert made.witness is not None
    assert made.witness.cause == cause


def test_without_a_driver_nothing_is_told() -> None:
    made = judged(Halving, "schedule.formula", driver=None)
    assert made.status == "unknown"
    assert "no installed framework knows how to drive this schedule" in made.reason
