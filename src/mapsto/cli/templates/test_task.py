"""What a task owes: a sum and its weight, predictions of each record, and metrics that are exact over uneven batches."""

from __future__ import annotations

import torch
from torch import nn

import mapsto

MyName = mapsto.registry.get("task", "my_name")


def data(records: int = 10) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(records, 3, dtype=torch.float64, generator=generator)
    return {"input": x, "target": (x[:, 0] > 0).long()}


def test_total_and_weight_are_those_of_the_loss() -> None:
    model, batch = nn.Linear(3, 1).double(), data()
    total, weight, outputs = MyName()(model, batch)
    assert weight == 10
    wanted = nn.functional.binary_cross_entropy_with_logits(outputs, batch["target"].double(), reduction="sum")
    torch.testing.assert_close(total, wanted)


def test_predictions_follow_the_threshold() -> None:
    logits = torch.tensor([-2.0, 0.1, 2.0])
    assert MyName().predict(logits)["label"].tolist() == [0, 1, 1]
    assert MyName(threshold=0.8).predict(logits)["label"].tolist() == [0, 0, 1]


def test_metrics_are_exact_over_uneven_batches() -> None:
    batch = data()
    program = mapsto.build_program(nn.Linear(3, 1).double(), MyName())
    parts = [{k: v[part] for k, v in batch.items()} for part in (slice(0, 3), slice(3, 10))]
    for name, value in program.evaluate([batch]).items():
        assert abs(program.evaluate(parts)[name] - value) < 1e-12


def test_it_learns() -> None:
    program = mapsto.build_program(nn.Linear(3, 1).double(), MyName(), mapsto.use("sgd", lr=1.0))
    for _ in range(100):
        program.step(data())
    assert program.evaluate([data()])["accuracy"] == 1.0
