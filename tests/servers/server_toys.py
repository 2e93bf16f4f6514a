"""Data, models and tasks that servers, workers and one process train alike: float64, deterministic, small."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mapsto import Spec, use
from mapsto.core.compose import Declared
from mapsto.torch import build_program
from mapsto.torch.servers.blueprint import Blueprint

RECORDS, BATCH = 203, 50  # the last batch of an epoch has 3 records: fewer than 4 micro-shards


class Numbers:
    """Inputs, targets and weights of records; ids into a table of 40 rows, of which 0 is padding."""

    def __init__(self, records: int = RECORDS) -> None:
        rng = np.random.default_rng(0)
        self.fields = {
            "input": rng.normal(size=(records, 6)),
            "target": rng.normal(size=(records, 3)),
            "weight": rng.uniform(0.1, 5, records),
            "ids": rng.integers(0, 40, (records, 4)) * (rng.random((records, 4)) < 0.8),
            "item": rng.integers(0, 200, records),
        }

    def __len__(self) -> int:
        return len(self.fields["target"])

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value[indices] for name, value in self.fields.items()}


def dense_net(width: int = 40) -> nn.Module:
    """Two layers; the middle weight is large enough to be split by rows."""
    return nn.Sequential(
        nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Dropout(0.25), nn.Tanh(), nn.Linear(width, 3)
    ).double()


class WideNet(nn.Module):
    """A bag of ids (looked up with padding), an item table of more rows than are ever touched, and a dense head."""

    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(40, 5, mode="mean", sparse=sparse, padding_idx=0)
        self.items = nn.Embedding(200, 5, sparse=sparse)
        self.ids = nn.Embedding(40, 5, sparse=sparse, padding_idx=0)
        self.head = nn.Linear(5, 3)
        self.double()

    def forward(self, ids: Tensor, item: Tensor) -> Tensor:
        twice = self.items(item) + self.items((item * 7 + 1) % 200)  # one table, looked up twice by other ids
        return self.head(torch.tanh(self.bag(ids) + twice + self.ids(ids).sum(1)))


class Unused(nn.Module):
    """Its second layer takes part only where a record's first input is above 2: in few micro-shards, if in any."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 3).double(), nn.Linear(6, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + (self.second(x) if bool((x[:, 0] > 2).any()) else 0)


def weighted(model: nn.Module, batch: dict[str, Any], fields: tuple[str, ...] = ("input",)) -> tuple[Tensor, Tensor, Tensor]:
    """Squared errors, each record with a weight of its own."""
    prediction = model(*[batch[name] for name in fields])
    return ((prediction - batch["target"]).square().sum(1) * batch["weight"]).sum(), batch["weight"].sum(), prediction


def wide(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    return weighted(model, batch, ("ids", "item"))


class Broken(nn.Module):
    """Fails in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:, :5])


class Counting(nn.Module):
    """Changes a buffer in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3).double()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.inner(x)


class Halved:
    """update -> update on half the gradient: right on any rows, and says so."""

    elementwise = True
    __mapsto__ = Declared(wraps=("update",))

    def update(self, inner: Any) -> Any:
        def halved(state: Any, metrics: Any) -> Any:
            for gradient in state.gradients():
                gradient.mul_(0.5)
            return inner(state, metrics)

        return halved


class Faulty:
    """loss -> loss that kills or stops its process at one step and micro-shard, once (a file remembers it), or dawdles."""

    __mapsto__ = Declared(wraps=("loss",))

    def __init__(self, file: str, step: int, shard: int, how: str = "kill") -> None:
        self.file, self.step, self.shard, self.how = Path(file), step, shard, how

    def loss(self, inner: Any) -> Any:
        def faulty(state: Any, batch: Any) -> Any:
            if state.training and state.shard == self.shard and state.step == self.step and not self.file.exists():
                self.file.touch()
                os.kill(os.getpid(), 9) if self.how == "kill" else time.sleep(600)
            return inner(state, batch)

        return faulty


class Slow:
    """loss -> loss that takes some time for one micro-shard at every third step."""

    __mapsto__ = Declared(wraps=("loss",))

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def loss(self, inner: Any) -> Any:
        def slow(state: Any, batch: Any) -> Any:
            if state.training and state.shard == 0 and state.step % 3 == 0:
                time.sleep(self.seconds)
            return inner(state, batch)

        return slow


def spec(**changes: Any) -> Spec:
    """A spec on those data; `mesh` and the rest as given."""
    given: dict[str, Any] = {
        "name": "served",
        "model": use(dense_net),
        "task": use(weighted),
        "optimizer": use("sgd", lr=0.05),
        "data": {"train": {"source": use(Numbers), "batch_size": BATCH, "shuffle": True}},
        "micro_shards": 4,
        "mesh": {"servers": 2, "workers": 3, "timeout": 60.0},
        "device": "cpu",
        "steps": 9,
        "log_every": 3,
    }
    return Spec(**{**given, **changes})


def one_process(of: Spec, steps: int, micro_shards: int = 4) -> Any:
    """The oracle: one program that takes whole batches, cut into the same micro-shards (which decide dropout)."""
    blueprint = Blueprint.of(of, micro_shards, {"total_steps": of.steps, "steps_per_epoch": 5})
    from mapsto.data.stream import read

    reader = blueprint.train_reader()
    program = build_program(
        of.model, of.task, of.optimizer, of.schedule, of.middleware,
        seed=of.seed, device="cpu", mesh=use("ranks"), micro_shards=micro_shards, injected=blueprint.injected,
    )  # fmt: skip
    for step in range(steps):
        program.step(read(reader, step, tuple(range(micro_shards)), micro_shards))
    return program


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest relative difference of any weight (relative to the largest weight of its tensor)."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[n] - other[n]).max() / max(np.abs(one[n]).max(), 1e-30)) for n in one)
