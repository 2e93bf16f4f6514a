"""Laws of tasks: our own keep them, and what is missing of an example is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mapsto.check.targets import of_target
from mapsto.core.laws import Trial, find_law, verdict
from mapsto.core.registry import registry
from mapsto.testing import laws_of

OWN = [e.key for e in registry.entries("task") if e.origin.startswith("mapsto ")]


@laws_of(*OWN)
def test_every_registered_task_keeps_them(law: Callable[[], None]) -> None:
    law()


def of_graphs(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, int, Tensor]:
    outputs = model(batch["nodes"], batch["edges"])
    return outputs.sum(), len(outputs), outputs


def test_a_batch_that_nothing_suits_is_asked_for() -> None:
    made = verdict(Trial(of_target(of_graphs, "task"), find_law("task.additivity")))
    assert made.status == "unknown"
    assert "mapsto.example(of_graphs, model=lambda: ..." in made.reason


def of_constants(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, int, Tensor]:
    outputs = model(batch["input"])
    return (outputs * 0.0).sum() + len(outputs), len(outputs), torch.ones(len(outputs), 1)


def test_a_total_without_a_gradient_proves_nothing() -> None:
    made = verdict(Trial(of_target(of_constants, "task"), find_law("task.additivity")))
    assert made.status == "unknown"
    assert "no gradient with respect to any parameter" in made.reason
