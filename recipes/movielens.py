"""Who would give which film how many stars: `mapsto train recipes/movielens.py`, or by a parameter server:

    mapsto train recipes/movielens.py 'mesh={servers: 2, workers: 2}'                  in step: the same weights
    mapsto train recipes/movielens.py 'mesh={servers: 2, workers: 4, staleness: 3}'    workers up to three steps ahead
    RATINGS=ml-100k.inter mapsto train recipes/movielens.py                            tab-separated user, item, rating, ...
    python recipes/movielens.py                                                        what the baselines reach

Matrix factorisation with biases (Koren, Bell & Volinsky 2009): rating = mean + b_user + b_item + p_user . q_item. Both tables
are sparse: a batch touches a few hundred rows, and only these travel between workers and servers, however long the tables
are. Without ratings of one's own (MovieLens may not be passed on) they are generated: tastes of four dimensions, popular
films, generous users, rounded to one to five stars.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import mapsto
from mapsto import Spec, use
from mapsto.torch.tasks import Task

torch.sparse.check_sparse_tensor_invariants.disable()  # the default, said: torch warns at a sparse Adagrad otherwise

TOP = 10
"""The length of the lists that `ndcg` judges."""


# -- data ------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Ratings:
    """Users and items numbered from 0, stars; split: 0 for training, 1 for validation, 2 for the test."""

    user: np.ndarray
    item: np.ndarray
    stars: np.ndarray
    split: np.ndarray

    @property
    def sizes(self) -> tuple[int, int]:
        """How many users and items there are."""
        return int(self.user.max()) + 1, int(self.item.max()) + 1

    @property
    def mean(self) -> float:
        """Of the training ratings."""
        return float(self.stars[self.split == 0].mean())


@functools.lru_cache(maxsize=2)
def read(path: str | None) -> Ratings:
    """The ratings of a file, or generated ones; a tenth each is held out for validation and test."""
    user, item, stars = generate() if path is None else read_file(Path(path))
    draw = np.random.default_rng(0).random(len(stars))
    return Ratings(user, item, stars, np.where(draw < 0.8, 0, np.where(draw < 0.9, 1, 2)))


def read_file(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns user, item, rating of a tab-separated file, with or without a line of names; ids are numbered anew."""
    rows = [line.split("\t")[:3] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not rows[0][2].replace(".", "").isdigit():
        rows = rows[1:]
    user, item = (np.unique([row[i] for row in rows], return_inverse=True)[1] for i in (0, 1))
    return user, item, np.array([float(row[2]) for row in rows], np.float32)


def generate(users: int = 700, items: int = 1200, ratings: int = 60_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct pairs of users and (popular) items, with stars from tastes, biases and noise."""
    rng = np.random.default_rng(7)
    popular = 1 / (np.arange(items) + 20)
    pairs = np.unique(rng.integers(0, users, 2 * ratings) * items + rng.choice(items, 2 * ratings, p=popular / popular.sum()))
    pairs = rng.permutation(pairs)[:ratings]
    user, item = pairs // items, pairs % items
    tastes, traits = rng.normal(size=(users, 4)), rng.normal(size=(items, 4))
    liked = 3.6 + 0.4 * rng.normal(size=users)[user] + 0.5 * rng.normal(size=items)[item]
    liked = liked + 0.35 * (tastes[user] * traits[item]).sum(1) + 0.7 * rng.normal(size=ratings)
    return user, item, np.clip(liked.round(), 1, 5).astype(np.float32)


@mapsto.source
class TrainingRatings:
    """One record a rating: user, item, target (stars)."""

    def __init__(self, path: str | None = None) -> None:
        ratings = read(path)
        chosen = ratings.split == 0
        self.fields = {"user": ratings.user[chosen], "item": ratings.item[chosen], "target": ratings.stars[chosen]}

    def __len__(self) -> int:
        return len(self.fields["target"])

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values[indices] for name, values in self.fields.items()}


@mapsto.source
class RatingsByUser:
    """One record a user: the held-out items [K] and their stars [K], padded with NaN, so that a list can be judged whole."""

    def __init__(self, split: Literal["valid", "test"], path: str | None = None) -> None:
        ratings = read(path)
        chosen = np.flatnonzero(ratings.split == {"valid": 1, "test": 2}[split])
        chosen = chosen[np.argsort(ratings.user[chosen], kind="stable")]
        self.users, starts, counts = np.unique(ratings.user[chosen], return_index=True, return_counts=True)
        self.items = np.zeros((len(self.users), counts.max()), np.int64)
        self.stars = np.full(self.items.shape, np.nan, np.float32)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            self.items[row, :count] = ratings.item[chosen[start : start + count]]
            self.stars[row, :count] = ratings.stars[chosen[start : start + count]]

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {"user": self.users[indices], "item": self.items[indices], "target": self.stars[indices]}


# -- the model -------------------------------------------------------------------------------------------------------------
@mapsto.model
class Factors(nn.Module):
    """Users [B] and items [B] or [B, K] -> stars of that shape, and the squared size of the rows that were looked up."""

    def __init__(self, rank: int = 16, path: str | None = None) -> None:
        super().__init__()
        ratings = read(path)
        users, items = ratings.sizes
        self.users = nn.Embedding(users, rank + 1, sparse=True)  # the last column is the bias
        self.items = nn.Embedding(items, rank + 1, sparse=True)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)
            nn.init.zeros_(table.weight[:, -1])
        self.register_buffer("mean", torch.tensor(ratings.mean))

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        one, other = self.users(user), self.items(item)
        if item.dim() == 2:
            one = one[:, None]
        stars = self.mean + one[..., -1] + other[..., -1] + (one[..., :-1] * other[..., :-1]).sum(-1)
        return stars, one.square().sum(-1) + other.square().sum(-1)


# -- the task: squared error with a penalty; judged by RMSE and by the order of each user's list -------------------------------
@mapsto.task
class Stars(Task):
    """Squared error of the known ratings, plus `penalty` times the squared size of their rows. Metrics: `rmse`, `ndcg`."""

    def __init__(self, penalty: float = 0.1) -> None:
        super().__init__(loss=None)
        self.penalty = penalty

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        stars, size = self.forward(model, batch)
        known = ~batch["target"].isnan()
        errors = torch.where(known, stars - batch["target"].nan_to_num(), 0.0).square()
        return (errors + self.penalty * size * known).sum(), known.sum(), stars

    def forward(self, model: nn.Module, batch: Mapping[str, Any]) -> Any:
        return model(batch["user"], batch["item"])

    def predict(self, outputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"stars": outputs[0]}

    def measure(self, outputs: Tensor, batch: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        known = ~batch["target"].isnan()
        errors = (outputs - batch["target"])[known].double().square()
        found: dict[str, tuple[Any, Any]] = {"mse": (errors.sum(), errors.numel())}
        if outputs.dim() == 2:
            found["ndcg"] = (ndcg(outputs, batch["target"]).sum(), len(outputs))
        return found

    def derive(self, means: Mapping[str, float]) -> dict[str, float]:
        return {"rmse": means["mse"] ** 0.5}


def ndcg(scores: Tensor, stars: Tensor, top: int = TOP) -> Tensor:
    """Normalised discounted cumulative gain of each row's best `top` by score (Järvelin & Kekäläinen 2002), with gains of
    2^stars - 1; NaN stars are no part of a list."""
    unknown = stars.isnan()
    gains = torch.where(unknown, 0.0, 2.0 ** stars.nan_to_num() - 1).double()
    discount = 1 / torch.arange(2, stars.shape[1] + 2, dtype=torch.float64).log2()
    discount[top:] = 0

    def gained(by: Tensor) -> Tensor:
        order = by.masked_fill(unknown, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        return (gains.gather(-1, order) * discount).sum(-1)

    return gained(scores) / gained(stars)


# -- what it is measured against -----------------------------------------------------------------------------------------------
def baselines(split: Literal["valid", "test"] = "test", path: str | None = None) -> dict[str, dict[str, float]]:
    """RMSE and NDCG of the global mean, and of damped user and item biases (Koren 2008, section 2.1)."""
    ratings, held = read(path), RatingsByUser(split, path)
    train = ratings.split == 0
    user, item, rest = ratings.user[train], ratings.item[train], ratings.stars[train] - ratings.mean
    users, items = ratings.sizes
    of_item = np.bincount(item, rest, items) / (np.bincount(item, minlength=items) + 5)
    of_user = np.bincount(user, rest - of_item[item], users) / (np.bincount(user, minlength=users) + 5)
    mean = np.full(held.items.shape, ratings.mean)
    return {
        "global mean": judged(mean, held.stars),
        "user and item biases": judged(mean + of_user[held.users][:, None] + of_item[held.items], held.stars),
    }


def judged(scores: np.ndarray, stars: np.ndarray) -> dict[str, float]:
    """RMSE and NDCG of scores [users, K] for stars that are NaN where there is no rating."""
    errors = (scores - stars)[~np.isnan(stars)]
    order = ndcg(torch.from_numpy(scores), torch.from_numpy(stars))
    return {"rmse": float(np.sqrt(np.mean(errors**2))), "ndcg": float(order.mean())}


# -- the run -------------------------------------------------------------------------------------------------------------------
def spec(path: str | None = None) -> Spec:
    """The run on the ratings in a file (default: the environment's RATINGS, else generated ones)."""
    path = path or os.environ.get("RATINGS") or None
    path = None if path is None else str(Path(path).resolve())
    return Spec(
        name="movielens",
        model=use("factors", rank=16, path=path),
        task=use("stars", penalty=0.1),
        data={
            "train": {"source": use("training_ratings", path=path), "batch_size": 512, "shuffle": True},
            "valid": {"source": use("ratings_by_user", split="valid", path=path), "batch_size": 256},
            "test": {"source": use("ratings_by_user", split="test", path=path), "batch_size": 256},
        },
        optimizer=use("adagrad", lr=0.1),
        epochs=12,
        log_every=100,
        checkpoint={"metric": "valid/rmse", "keep": 1},
    )


if __name__ == "__main__":
    for name, found in baselines(path=os.environ.get("RATINGS") or None).items():
        print(f"{name:24} rmse {found['rmse']:.4f}  ndcg@{TOP} {found['ndcg']:.4f}")
