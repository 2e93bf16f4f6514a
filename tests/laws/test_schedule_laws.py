"""Laws of schedules beyond their mutants: arguments that are found, what is asked, what a failure says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, SequentialLR

from mapsto.check.targets import of_target
from mapsto.core.laws import Trial, Verdict, example, find_law, verdict
from mapsto.core.registry import registry
from mapsto.testing import laws_of

OWN = [e.key for e in registry.entries("schedule") if e.origin.startswith("mapsto ")]


def judged(target: Any, law: str) -> Verdict:
    return verdict(Trial(of_target(target, "schedule"), find_law(law)))


@laws_of(*OWN)
def test_every_registered_schedule_keeps_them(law: Callable[[], None]) -> None:
    law()


def trapezium(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int, decay_ratio: float, last_epoch: int = -1
) -> LambdaLR:
    def factor(t: int) -> float:
        return min(1.0, (t + 1) / warmup_steps, max(0.0, (total_steps - t) / (total_steps * decay_ratio)))

    return LambdaLR(optimizer, factor, last_epoch)


def test_arguments_are_guessed_by_name_and_total_steps_is_injected() -> None:
    made = judged(trapezium, "schedule.resume")
    assert made.status == "pass", made.reason
    assert made.controls == {"without a restore it differs": True}


def test_a_formula_is_asked_for() -> None:
    made = judged(trapezium, "schedule.formula")
    assert made.status == "not stated"
    assert "mapsto.example(trapezium, formula=lambda t, base, **args:" in made.reason


def mysterious(optimizer: torch.optim.Optimizer, zeta: Any) -> LambdaLR:
    return LambdaLR(optimizer, lambda t: 1.0 / (t + zeta))


def test_an_argument_that_tells_nothing_is_asked_for() -> None:
    made = judged(mysterious, "schedule.resume")
    assert made.status == "unknown"
    assert "mapsto.example(mysterious, args={'zeta': ...})" in made.reason


def test_the_authors_formula_gets_his_arguments() -> None:
    def schedule(optimizer: torch.optim.Optimizer, zeta: float, power: float = 1.0) -> LambdaLR:
        return LambdaLR(optimizer, lambda t: zeta / (t + zeta) ** power)

    def formula(t: int, base: float, *, zeta: float, power: float) -> float:
        return base * zeta / (t + zeta) ** power

    assert judged(example(schedule, args={"zeta": 3.0}, formula=formula), "schedule.formula").status == "pass"


def constant(optimizer: torch.optim.Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda t: 1.0)


def test_a_rate_that_never_changes_proves_nothing() -> None:
    assert judged(constant, "schedule.wrapping").status == "vacuous"
    made = judged(constant, "schedule.resume")
    assert made.status == "unknown"
    assert "its rate never changes" in made.reason


def test_an_instance_is_bound_to_its_optimizer() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    made = judged(LambdaLR(optimizer, lambda t: 0.5**t), "schedule.resume")
    assert made.status == "unknown"
    assert "check its class or factory" in made.reason


def test_a_schedule_one_step_late_is_told_so() -> None:
    def late(optimizer: torch.optim.Optimizer) -> LambdaLR:
        return LambdaLR(optimizer, lambda t: 0.9 ** max(0, t - 1))

    made = judged(example(late, formula=lambda t, base, **args: base * 0.9**t), "schedule.formula")
    assert made.status == "fail"
    assert made.witness is not None
    assert made.witness.first["step"] == 1
    assert made.witness.cause == "it is one step late"


def test_a_sequence_in_a_sequence_of_one_is_another_sequence() -> None:
    made = judged(SequentialLR, "schedule.wrapping")  # pytorch#196243
    assert made.status == "fail"
    assert made.witness is not None
    assert made.witness.case["wrapper"] == "SequentialLR"


@pytest.mark.parametrize(
    "name", ["StepLR", "OneCycleLR", "CosineAnnealingWarmRestarts", "ReduceLROnPlateau", "ChainedScheduler"]
)
def test_closed_forms_hold_for_the_framework_s_own(name: str) -> None:
    target: type[LRScheduler] = getattr(torch.optim.lr_scheduler, name)
    made = judged(target, "schedule.formula")
    assert made.status == "pass", made.reason
    assert made.counts["steps"] >= 30
