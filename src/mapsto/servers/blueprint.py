"""What every process of a parameter server builds its part of the program from, and how it gets there."""

from __future__ import annotations

import dataclasses
import importlib
import pickle
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ..core.errors import SpecError
from ..core.parts import build
from ..core.random import derive
from ..core.recipes import Recipe, load_recipes, loaded_recipes
from ..core.spec import Spec


@dataclass(frozen=True)
class Blueprint:
    """The parts of a spec that decide a trajectory, and the values injected into those that leave them open.

    A wing's own builds its programs from them.
    """

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
    def of(cls, spec: Spec, micro_shards: int, injected: Mapping[str, Any]) -> Self:
        parts = {
            name: getattr(spec, name) for name in ("model", "task", "optimizer", "schedule", "middleware", "seed", "device")
        }
        return cls(**parts, reader=spec.data["train"], micro_shards=micro_shards, injected=dict(injected))

    def kept(self) -> AbstractContextManager[Any]:
        """Within it the framework's global random streams may be drawn from; afterwards they are as they were."""
        return nullcontext()

    @contextmanager
    def seeded(self, name: str) -> Iterator[None]:
        """Within it the global random streams start at (seed, name), as in a run; the process's own are back afterwards."""
        number = derive(self.seed, name)
        before = random.getstate(), np.random.get_state()
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)
        try:
            with self.kept():
                yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])

    def train_reader(self) -> Any:
        """The reader of the training data, as a run builds it."""
        with self.seeded("data.train"):
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

    def open(self) -> Any:
        """The blueprint, of its wing's class."""
        sys.path.extend(p for p in self.path if p not in sys.path)
        load_recipes(self.recipes)
        return pickle.loads(self.data)
