"""The laws of programs on ranks judge a regression in NumPy, whose two ranks are threads."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np
import pytest

from mapsto.core.laws import Subject, Trial, Verdict, find_law, verdict
from mapsto.core.spec import Spec
from mapsto.data.stream import PaddingBatch, size
from mapsto.laws.drivers import Sums

WAIT = 20.0
SOURCE = {"use": "mapsto.engine.laws.runs:Blobs"}


class Line:
    """What two threads tell each other."""

    def __init__(self) -> None:
        self.told: list[Any] = [None, None]
        self.both = threading.Barrier(2, timeout=WAIT)

    def gather(self, rank: int, value: Any) -> list[Any]:
        self.told[rank] = value
        self.both.wait()
        found = list(self.told)
        self.both.wait()
        return found


class Regression:
    """Least squares by gradient descent; `targets` are those of a batch as it looks at them."""

    def __init__(self, driver: Any, alone: bool, micro_shards: int, exact: bool) -> None:
        self.driver, self.alone = driver, alone
        self.dtype = np.dtype("float64" if exact else "float32")
        self.weights = {"w": np.linspace(-0.3, 0.4, 8).astype(self.dtype), "b": np.zeros((), self.dtype)}
        self.held: dict[str, Any] = {}
        self.told = 0.0
        rank = driver.rank
        self.own = tuple(range(micro_shards)) if alone else tuple(range(rank, micro_shards, 2))
        self.reader_args = {"shard": self.own, "shards": micro_shards}
        self.noise = np.random.default_rng(rank)

    def targets(self, batch: Any) -> Any:
        return batch["target"].astype(self.dtype)

    def weight(self, batch: Any) -> float:
        return float(size(batch))

    def one(self, batch: Any) -> tuple[dict[str, Any], float, float]:
        x = batch["input"].astype(self.dtype)
        error = x @ self.weights["w"] + self.weights["b"] - self.targets(batch)
        return {"w": 2 * x.T @ error, "b": 2 * error.sum()}, float((error**2).sum()), self.weight(batch)

    def sums(self, batches: Any) -> Sums:
        parts = [self.one(batch) for batch in batches.values() if size(batch)]
        grads = {n: np.asarray(sum((p[0][n] for p in parts), np.zeros_like(w))) for n, w in self.weights.items()}
        return Sums(grads, sum(p[1] for p in parts), sum(p[2] for p in parts))

    def put(self, gradients: Any, total: float, weight: float) -> None:
        self.held, self.told = dict(gradients), total / weight

    def grad(self, batch: Any) -> None:
        told = {n: self.one(part) for n, part in zip(self.own, batch, strict=True) if not isinstance(part, PaddingBatch)}
        every = told if self.alone else self.exchanged(told)
        self.held, self.told = self.mean(every), sum(p[1] for p in every.values()) / sum(p[2] for p in every.values())

    def exchanged(self, told: dict[int, Any]) -> dict[int, Any]:
        first, second = self.driver.gather(told)
        return {**first, **second}

    def mean(self, every: dict[int, Any]) -> dict[str, Any]:
        """In the order of the micro-shards, whoever had them."""
        weight = sum(every[n][2] for n in sorted(every))
        return {k: np.asarray(sum(every[n][0][k] for n in sorted(every)) / weight, self.dtype) for k in self.weights}

    def gradients(self) -> Any:
        return dict(self.held)

    def update(self) -> dict[str, float]:
        self.weights = {n: w - np.asarray(0.01, self.dtype) * self.held[n] for n, w in self.weights.items()}
        return {"loss": self.told}

    def step(self, batch: Any) -> Any:
        self.grad(batch)
        return self.update()

    def loss(self, batch: Any) -> tuple[float, float]:
        return self.one(batch)[1:]

    def parameters(self) -> Any:
        return dict(self.weights)

    def holds(self) -> Any:
        return dict(self.weights)

    def names(self) -> list[list[str]]:
        return [[name] for name in self.weights]

    def state(self) -> Any:
        return dict(self.weights)


class Centred(Regression):
    """Looks at the records of a micro-shard together."""

    def targets(self, batch: Any) -> Any:
        return super().targets(batch) - super().targets(batch).mean()


class CountsAlike(Regression):
    """The mean of the means of micro-shards."""

    def mean(self, every: dict[int, Any]) -> dict[str, Any]:
        return {k: np.mean([g[k] / n for g, _, n in every.values()], axis=0) for k in self.weights}


class KeepsItsOwn(Regression):
    """Each rank steps by the gradient of its own records."""

    def exchanged(self, told: dict[int, Any]) -> dict[int, Any]:
        self.driver.gather(None)
        return told


class Jitters(Regression):
    """A rank's own noise on its update."""

    def update(self) -> dict[str, float]:
        self.held = {n: g + 1e-9 * self.noise.standard_normal(g.shape) for n, g in self.held.items()}
        return super().update()


class AddsUpByRank(Regression):
    """Sums of ranks are added up, in whatever order the records were dealt."""

    def mean(self, every: dict[int, Any]) -> dict[str, Any]:
        if self.alone:
            return super().mean(every)
        weight = sum(n for _, _, n in every.values())
        by_rank = [[every[n][0] for n in sorted(every) if n % 2 == rank] for rank in (0, 1)]
        return {k: np.asarray(sum(sum(g[k] for g in part) for part in by_rank) / weight, self.dtype) for k in self.weights}


class Rounds(Regression):
    """Its totals are right to a relative error."""

    error = 1e-13

    def loss(self, batch: Any) -> tuple[float, float]:
        total, weight = super().loss(batch)
        return total * (1 + self.error * self.noise.random()), weight


class RoundsCoarsely(Rounds):
    error = 1e-6


class Driver:
    def __init__(self, target: type[Regression], rank: int, line: Line) -> None:
        self.target, self.rank, self.line = target, rank, line

    def build(
        self, trial: Trial, spec: Spec, reader: Any, *, axes: Any = None, exact: bool = True, **options: Any
    ) -> Regression:
        shards = options.get("micro_shards") or 2
        made = self.target(self, axes is None, shards, exact)
        if axes is None and not options.get("strict", True):
            made.mean = lambda every: Regression.mean(made, dict(enumerate(reversed(every.values()))))
        return made

    def gather(self, value: Any) -> list[Any]:
        return self.line.gather(self.rank, value)

    def patience(self, seconds: float) -> Any:
        return contextlib.nullcontext()


def padded(batch: Any) -> Any:
    """With a field of words, filled up to the longest record of its batch."""
    lengths = [1 + round(4 * abs(float(x[0]))) for x in batch["input"]]
    return {**batch, "words": np.array([[1] * n + [0] * (max(lengths) - n) for n in lengths])}


def judged(target: type[Regression], law: str, transforms: Any = ()) -> list[Verdict]:
    """The verdict of each rank."""
    data = {"train": {"source": SOURCE, "batch_size": 8, "transforms": list(transforms)}}
    spec = Spec(name="here", model={"use": "builtins:dict"}, data=data, steps=3, middleware=[])
    line, found = Line(), list[Verdict]()

    def judge(rank: int) -> None:
        driver = Driver(target, rank, line)
        subject = Subject(kind="program", label=target.__name__, reference="", target=spec, driver=driver)
        found.append(verdict(Trial(subject, find_law(f"program.{law}"), rank=rank, world=2)))
        if found[-1].status != "pass":
            line.both.abort()

    threads = [threading.Thread(target=judge, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


LAWS = ["ranks", "replicated", "sharded", "idle_rank", "agreement", "exact_evaluation", "strict_ranks"]


@pytest.mark.parametrize("law", LAWS)
def test_a_right_one_keeps_them(law: str) -> None:
    assert [(v.status, v.reason) for v in judged(Regression, law)] == [("pass", "")] * 2


def test_records_that_are_padded_to_the_longest_of_a_batch_are_the_same_records() -> None:
    found = judged(Regression, "exact_evaluation", transforms=[padded])
    assert [(v.status, v.reason) for v in found] == [("pass", "")] * 2


def test_totals_that_are_rounded_are_right() -> None:
    assert [(v.status, v.reason) for v in judged(Rounds, "exact_evaluation")] == [("pass", "")] * 2


@pytest.mark.parametrize(
    ("target", "law", "said"),
    [
        (RoundsCoarsely, "exact_evaluation", "the mean loss"),
        (Centred, "ranks", "micro-shards and the whole batch"),
        (CountsAlike, "replicated", "gradients on the mesh"),
        (KeepsItsOwn, "replicated", "gradients on the mesh"),
        (Jitters, "agreement", "the state of rank 1 and of rank 0"),
        (AddsUpByRank, "strict_ranks", "weights of two ranks"),
    ],
)
def test_a_wrong_one_is_caught(target: type[Regression], law: str, said: str) -> None:
    failed = [v for v in judged(target, law) if v.status == "fail" and v.reason.startswith(said)]
    assert failed
