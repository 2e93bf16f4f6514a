"""The laws of schedules, and the shape of this one over a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mapsto
from mapsto.testing import laws_of

my_name = mapsto.registry.get("schedule", "my_name")


# Each law that its kind owes is a test of its own: `mapsto check schedule/my_name` prints them.
@laws_of("schedule/my_name")
def test_laws(law: Callable[[], None]) -> None:
    law()


def made(**options: Any) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    return optimizer, my_name(optimizer, 100, **options)


def rates(optimizer: torch.optim.Optimizer, schedule: Any, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_it_rises_stays_and_falls() -> None:
    found = rates(*made(rise=0.1, fall=0.2), steps=100)
    assert found[:10] == sorted(found[:10])
    assert found[:10] == pytest.approx([2.0 * (t + 1) / 11 for t in range(10)])
    assert found[10:81] == [2.0] * 71
    assert found[81:] == pytest.approx([2.0 * (100 - t) / 20 for t in range(81, 100)])


def test_shares_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="shares"):
        made(rise=0.7, fall=0.7)


def test_a_program_steps_it_once_an_update() -> None:
    model, schedule = torch.nn.Linear(2, 1), mapsto.use("my_name", rise=0.5)
    program = mapsto.build_program(model, "regression", mapsto.use("sgd", lr=1.0), schedule, injected={"total_steps": 10})
    before = program.rates()["lr"]
    program.step({"input": torch.zeros(4, 2), "target": torch.zeros(4, 1)})
    assert program.rates()["lr"] == pytest.approx(2 * before)
