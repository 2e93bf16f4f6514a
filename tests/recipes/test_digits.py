"""The demo: its three extensions are what they say, and it reaches what it promises."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from recipe_runs import RECIPES

from mapsto import Run, load_spec

RECIPE = str(RECIPES / "digits.py")


def test_reaches_98_percent_on_digits_it_has_not_seen(recipe: ModuleType, tmp_path: Path) -> None:
    run = Run(load_spec(RECIPE), tmp_path / "run")
    run.fit()
    assert run.reader("test").records == 360
    assert run.evaluate("test")["accuracy"] >= 0.98
    assert run.folder.panels()[0]["kind"] == "confusion"


def test_splits_share_no_image(recipe: ModuleType) -> None:
    images = {split: {image.tobytes() for image in recipe.Digits(split).input} for split in ("train", "valid", "test")}
    assert {split: len(found) for split, found in images.items()} == {"train": 1257, "valid": 180, "test": 360}
    assert not images["train"] & images["test"]
    assert not images["train"] & images["valid"]


def test_jitter_moves_by_at_most_a_pixel_and_draws_from_its_generator(recipe: ModuleType) -> None:
    batch = {"input": recipe.Digits("test").input[:50], "target": np.zeros(50, np.int64)}
    kept = batch["input"].copy()
    moved = [recipe.jitter(batch, rng=np.random.default_rng(seed))["input"] for seed in (0, 0, 1)]
    assert (batch["input"] == kept).all()
    assert (moved[0] == moved[1]).all()
    assert (moved[0] != moved[2]).any()
    padded = np.pad(kept, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifts = [padded[:, :, d : d + 8, r : r + 8] for d in range(3) for r in range(3)]
    assert np.any([(s == moved[0]).all((1, 2, 3)) for s in shifts], axis=0).all()


def test_blur_pool_is_a_binomial_mean_of_every_second_pixel(recipe: ModuleType) -> None:
    x = torch.rand(2, 3, 8, 8)
    found = recipe.BlurPool(3)(x)
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    around = F.pad(x, (1, 1, 1, 1), mode="replicate")
    wanted = torch.einsum("i,j,ncij->nc", row, row, around[:, :, 4:7, 2:5])  # output pixel (2, 1)
    torch.testing.assert_close(found[:, :, 2, 1], wanted)
    torch.testing.assert_close(recipe.BlurPool(3)(torch.ones(1, 3, 8, 8)), torch.ones(1, 3, 4, 4))


def test_poly1_is_its_formula_and_cross_entropy_at_epsilon_0(recipe: ModuleType) -> None:
    logits, target = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    total, weight = recipe.poly1(logits, target, epsilon=2.0)
    likely = logits.softmax(-1)[torch.arange(7), target]
    torch.testing.assert_close(total, (-likely.log() + 2 * (1 - likely)).sum())
    assert weight == 7
    torch.testing.assert_close(recipe.poly1(logits, target, epsilon=0.0)[0], F.cross_entropy(logits, target, reduction="sum"))


def test_centralised_gradients_have_no_mean_over_the_inputs(recipe: ModuleType, tmp_path: Path) -> None:
    means = {}
    for name, changes in (("centralised", ()), ("control", ("middleware.centralise=null",))):
        run = Run(load_spec(RECIPE).override(*changes), tmp_path / name)
        run.program.step(run.reader("train").batch(0))
        gradient = run.program.model.get_parameter("head.2.weight").grad
        means[name] = float(gradient.mean(1).abs().max())
    assert means["centralised"] < 1e-7 < means["control"]
