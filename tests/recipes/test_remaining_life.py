"""The recipe of remaining life: machines in one part each, and quantiles that beat the age and are near their levels."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from recipe_runs import RECIPES

from mapsto import Run, load_spec
from mapsto.core.parts import build

RECIPE = str(RECIPES / "remaining_life.py")


@pytest.fixture(scope="module", autouse=True)
def _few(recipe: ModuleType) -> None:
    recipe.MACHINES = 400
    recipe.machines.cache_clear()


def test_a_machine_is_in_one_part_and_its_target_is_what_it_has_left(recipe: ModuleType) -> None:
    parts = [build(reader.args["source"], "source", path="data").field_values for reader in recipe.spec().data.values()]
    sources = [build(reader.args["source"], "source", path="data") for reader in recipe.spec().data.values()]
    machines = [set(field("machine", np.arange(len(s)))) for field, s in zip(parts, sources, strict=True)]
    assert sum(map(len, machines)) == len(set.union(*machines)) == 400
    assert len(machines[2]) == pytest.approx(80, abs=5)
    rows = recipe.machines()[np.arange(len(recipe.machines()))]
    lives = rows["target"] * 100 + rows["age"]
    for machine in range(5):
        assert np.ptp(lives[rows["machine"] == machine]) < 1e-3


def test_it_beats_the_age_and_its_quantiles_are_near_their_levels(recipe: ModuleType, tmp_path) -> None:
    run = Run(load_spec(RECIPE).override("epochs=12", "data.test.batch_size=512"), tmp_path / "run")
    run.fit()
    found = run.evaluate("test")
    assert found["mae"] < 0.33, "the age alone: 0.41"
    for level in recipe.LEVELS:
        assert found[f"below_{level:g}"] == pytest.approx(level, abs=0.1)
