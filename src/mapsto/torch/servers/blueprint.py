"""What every process of a parameter server builds its part of the program from, and how it gets there."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pickle
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...core.errors import SpecError
from ...core.parts import build
from ...core.random import derive
from ...core.recipes import Recipe, load_recipes, loaded_recipes
from ...core.spec import Spec
from ..build import build_program
from ..program import Program


@dataclass(frozen=True)
class Blueprint:
    """The parts of a spec that decide a trajectory, and the values injected into those that leave them open."""

    model: Any
    task: Any
    optimizer: Any
    schedule: Any
    middleware: tuple[Any, ...]
    reader: Any
    seed: int
    device: str
    micro_shards: int
    injected: Mapping[str, Any]

    @classmethod
    def of(cls, spec: Spec, micro_shards: int, injected: Mapping[str, Any]) -> Blueprint:
        parts = {
            name: getattr(spec, name) for name in ("model", "task", "optimizer", "schedule", "middleware", "seed", "device")
        }
        return cls(**parts, reader=spec.data["train"], micro_shards=micro_shards, injected=dict(injected))

    def program(self, mesh: Any = None, device: str | None = None) -> Program:
        """The program as one process builds it, or as the part of it that `mesh` makes."""
        with _seeded(self.seed, "build"):
            return build_program(
                self.model,
                self.task,
                self.optimizer,
                self.schedule,
                self.middleware,
                seed=self.seed,
                device=device or self.device,
                mesh=mesh,
                injected=self.injected,
            )

    def train_reader(self) -> Any:
        """The reader of the training data, as a run builds it."""
        with _seeded(self.seed, "data.train"):
            return build(self.reader, "reader", path="data.train", injected={"seed": self.seed})

    def ship(self) -> Shipment:
        """Pack it for another process. Raises SpecError naming the part that cannot leave this one."""
        cloudpickle: Any = importlib.import_module("ray.cloudpickle")
        for path, value in self._parts():
            try:
                cloudpickle.dumps(value)
            except Exception as error:
                raise SpecError(
                    f"{path}: this part cannot be sent to servers and workers ({type(error).__name__}: {error}); "
                    "name what makes it instead: use('registered-name', ...) or use('package.module:factory', ...)"
                ) from error
        return Shipment(loaded_recipes(), tuple(sys.path), cloudpickle.dumps(self))

    def _parts(self) -> list[tuple[str, Any]]:
        parts = [(f.name, getattr(self, f.name)) for f in dataclasses.fields(self) if f.name not in ("middleware", "reader")]
        return [*parts, ("data.train", self.reader), *((f"middleware.{i}", m) for i, m in enumerate(self.middleware))]


@dataclass(frozen=True)
class Shipment:
    """A blueprint on its way; recipes: the files that must be imported before it is opened."""

    recipes: tuple[Recipe, ...]
    path: tuple[str, ...]
    data: bytes

    def open(self) -> Blueprint:
        sys.path.extend(p for p in self.path if p not in sys.path)
        load_recipes(self.recipes)
        found: Blueprint = pickle.loads(self.data)
        return found


@contextlib.contextmanager
def _seeded(seed: int, name: str) -> Iterator[None]:
    """Within it the global random streams start at (seed, name), as in a run; the process's own are back afterwards."""
    number = derive(seed, name)
    before = random.getstate(), np.random.get_state()
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
