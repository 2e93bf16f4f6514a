"""What an observer owes: it acts at the events it says, and goes on where it was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import mapsto
from mapsto import Event, RunView, use

MyName = mapsto.registry.get("observer", "my_name")


def watch(observer: Any, *values: float, name: str = "evaluate") -> list[str]:
    """Show it these losses; what it asked for."""
    asked: list[str] = []
    view = RunView(Path(), mapsto.Spec(model=torch.nn.Identity(), data={}), 100, 10, {}, dict, asked.append)
    for step, value in enumerate(values):
        observer(Event(name, step, step / 10, {"valid/loss": value, "valid/accuracy": 1 - value}, view))  # type: ignore[arg-type]
    return asked


def test_it_asks_once_the_goal_is_reached_often_enough() -> None:
    assert len(watch(MyName(0.5), 0.9, 0.6, 0.5)) == 1
    assert watch(MyName(0.5, times=2), 0.4, 0.6, 0.4) == []
    assert len(watch(MyName(0.5, times=2), 0.6, 0.4, 0.4)) == 1
    assert len(watch(MyName(0.5, metric="valid/accuracy", mode="max"), 0.9, 0.1)) == 1


def test_it_waits_for_its_own_events_and_metric() -> None:
    assert watch(MyName(0.5), 0.1, name="checkpoint") == []
    assert watch(MyName(0.5, metric="valid/recall"), 0.1) == []


def test_it_goes_on_where_it_was_saved() -> None:
    first, second = MyName(0.5, times=2), MyName(0.5, times=2)
    watch(first, 0.4)
    second.load_state_dict(first.state_dict())
    assert len(watch(second, 0.4)) == 1


def test_a_run_stops(tmp_path: Path) -> None:
    data = {"source": {"input": np.zeros((8, 2), np.float32), "target": np.zeros((8, 1), np.float32)}, "batch_size": 4}
    spec = mapsto.Spec(
        model=use("torch.nn:Linear", in_features=2, out_features=1),
        task="regression",
        data={"train": data, "valid": data},
        observers=(use("my_name", goal=1e9),),
        evaluate_every=2,
        steps=20,
        device="cpu",
    )
    result = mapsto.Run(spec, tmp_path / "run").fit()
    assert (result.reason, result.steps) == ("stopped", 2)
