"""The generator and its critic: samples are judged by the protocol, training finds modes, and goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from recipe_runs import RECIPES, same, weights_at

from mapsto import Run, load_spec

RECIPE = str(RECIPES / "generation.py")
SHORT = ("steps=600", "evaluate_every=300", "turns.generator.middleware.ema.decay=0.98", "device=cpu", "checkpoint.every=100")


def test_samples_are_judged_by_the_protocol(recipe: ModuleType) -> None:
    modes = recipe.Modes()
    centres = np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], float)
    assert {tuple(m) for m in recipe.MODES.tolist()} == {tuple(m) for m in centres.tolist()}
    points = np.concatenate([np.add(centres[:20], [0.149, 0]), np.add(centres[:4], [0, 0.151]), np.ones((1, 2))])
    found = modes.finish(modes.count({"point": points}, None, None))
    assert found == {"found": 20.0, "quality": 20 / 25, "kl": pytest.approx(np.log(25 / 20))}
    nothing = modes.finish(modes.count({"point": np.ones((3, 2))}, None, None))
    assert nothing == {"found": 0.0, "quality": 0.0, "kl": 0.0}


def test_the_data_are_the_mixture(recipe: ModuleType) -> None:
    points = recipe.grid(5000, "train")["input"]
    found = recipe.Modes().finish(recipe.Modes().count({"point": points}, None, None))
    assert found["found"] == 25
    assert found["quality"] == pytest.approx(1 - np.exp(-4.5), abs=0.005)  # of two dimensions, within 3 deviations
    assert not np.array_equal(points, recipe.grid(5000, "valid")["input"])


def test_it_comes_nearer_to_the_modes_and_goes_on_bitwise(recipe: ModuleType, tmp_path: Path) -> None:
    spec = load_spec(RECIPE).override(*SHORT)
    untrained = Run(spec, tmp_path / "untrained").evaluate("valid")
    run = Run(spec, tmp_path / "run")
    metrics = run.fit().metrics
    assert metrics["valid/modes.found"] >= 15 > untrained["modes.found"]
    assert metrics["valid/modes.kl"] < untrained["modes.kl"] / 2
    assert {"train/critic/loss", "train/generator/loss", "train/generator/lr"} <= set(metrics)
    part = Run(spec.override("steps=600"), tmp_path / "part", observers=[stops_at(250)])
    part.fit()
    Run.resume(tmp_path / "part").fit()
    assert same(weights_at(spec, tmp_path / "part", 600), weights_at(spec, tmp_path / "run", 600))


def stops_at(step: int) -> Callable[[Any], None]:
    def observer(event: Any) -> None:
        if event.step >= step and event.name == "log":
            event.run.ask_to_stop("as was asked")

    return observer


@pytest.mark.slow
def test_it_reaches_what_it_promises(recipe: ModuleType, tmp_path: Path) -> None:
    metrics = Run(load_spec(RECIPE).override("device=cpu"), tmp_path / "run").fit().metrics
    assert metrics["valid/modes.found"] >= 24
    assert metrics["valid/modes.quality"] >= 0.85
