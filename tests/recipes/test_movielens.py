"""The ratings recipe: held-out ratings are held out, the measures are their formulas, and it beats the baselines."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from recipe_runs import RECIPES

from mapsto import Run, load_spec

RECIPE = str(RECIPES / "movielens.py")
REAL = Path(__file__).parents[3] / "shared" / "data" / "ml100k" / "ml-100k.inter"


@pytest.fixture(autouse=True)
def _no_ratings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RATINGS", raising=False)


def test_every_rating_is_in_one_split_and_no_pair_twice(recipe: ModuleType) -> None:
    ratings = recipe.read(None)
    train, held = recipe.TrainingRatings(), [recipe.RatingsByUser(split) for split in ("valid", "test")]
    pairs = [set(zip(train.fields["user"], train.fields["item"], strict=True))]
    for source in held:
        known = ~np.isnan(source.stars)
        users = np.broadcast_to(source.users[:, None], known.shape)
        pairs.append(set(zip(users[known], source.items[known], strict=True)))
    assert sum(map(len, pairs)) == len(set.union(*pairs)) == len(ratings.stars) == 60_000
    assert [len(p) / 60_000 for p in pairs[1:]] == pytest.approx([0.1, 0.1], abs=0.01)
    assert set(np.unique(ratings.stars)) == {1, 2, 3, 4, 5}


def test_a_file_is_read_with_and_without_a_line_of_names(recipe: ModuleType, tmp_path: Path) -> None:
    rows = "7\tb\t3\t881250949\n3\ta\t4.5\t1\n7\ta\t1\t2\n"
    for name, text in (("named", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows), ("bare", rows)):
        (tmp_path / name).write_text(text)
        user, item, stars = recipe.read_file(tmp_path / name)
        assert (user.tolist(), item.tolist(), stars.tolist()) == ([1, 0, 1], [1, 0, 0], [3, 4.5, 1])


def test_ndcg_is_its_formula(recipe: ModuleType) -> None:
    nan = float("nan")
    stars = torch.tensor([[3.0, 5.0, 1.0, nan], [2.0, nan, 4.0, nan]])
    scores = torch.tensor([[0.9, 0.5, 0.7, 9.0], [0.1, 9.0, 0.2, 9.0]])
    discount = [1 / math.log2(i + 2) for i in range(3)]
    got = 7 * discount[0] + 1 * discount[1] + 31 * discount[2]
    best = 31 * discount[0] + 7 * discount[1] + 1 * discount[2]
    torch.testing.assert_close(recipe.ndcg(scores, stars), torch.tensor([got / best, 1.0], dtype=torch.float64))
    cut = recipe.ndcg(scores, stars, top=1)
    torch.testing.assert_close(cut, torch.tensor([7 / 31, 1.0], dtype=torch.float64))


def test_it_beats_the_baselines_on_ratings_it_has_not_seen(recipe: ModuleType, tmp_path: Path) -> None:
    found = recipe.baselines("test")
    run = Run(load_spec(RECIPE).override("epochs=8"), tmp_path / "run")
    run.fit()
    test = run.evaluate("test", checkpoint="best")
    assert found["global mean"]["rmse"] > found["user and item biases"]["rmse"] > test["rmse"] + 0.05
    assert found["global mean"]["ndcg"] < found["user and item biases"]["ndcg"] < test["ndcg"] - 0.02
    scores = np.concatenate([p["stars"] for p in run.predict("test", checkpoint="best")])
    assert recipe.judged(scores.astype(np.float64), recipe.RatingsByUser("test").stars) == {
        "rmse": pytest.approx(test["rmse"], rel=1e-5),
        "ndcg": pytest.approx(test["ndcg"], rel=1e-6),
    }, "each record weighed once"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="MovieLens is not at hand")
def test_it_beats_the_baselines_on_movielens(recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATINGS", str(REAL))
    found = recipe.baselines("test", os.environ["RATINGS"])["user and item biases"]
    run = Run(load_spec(RECIPE).override("epochs=10"), tmp_path / "run")
    run.fit()
    test = run.evaluate("test", checkpoint="best")
    assert test["rmse"] < found["rmse"] - 0.02
    assert test["ndcg"] > found["ndcg"] + 0.005


@pytest.mark.slow
def test_a_parameter_server_comes_to_the_same_weights(recipe: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    weights = {}
    for name, changes in (("one", ()), ("served", ("mesh={servers: 2, workers: 2}",))):
        run = Run(load_spec(RECIPE).override("epochs=2", *changes), tmp_path / name)
        run.fit()
        with run.trained("last") as program:
            weights[name] = program.weights()
    for key, value in weights["one"].items():
        np.testing.assert_allclose(weights["served"][key], value, rtol=0, atol=1e-5 * np.abs(value).max())
    pulled = [r["metrics"]["train/bytes/pulled"] for r in run.folder.records("log")]
    assert max(pulled) < sum(v.nbytes for v in weights["one"].values()), "two workers pull less than one whole table each"
