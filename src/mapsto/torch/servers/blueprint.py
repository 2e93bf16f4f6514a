"""How the processes of a parameter server build their parts of a program."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from ...data.fitted import fit
from ...servers import blueprint
from ..build import build_program
from ..program import Program


@dataclass(frozen=True)
class Blueprint(blueprint.Blueprint):
    """The parts of a spec that decide a trajectory, and the program of them."""

    def kept(self) -> AbstractContextManager[Any]:
        """Afterwards PyTorch's generators are as they were."""
        return torch.random.fork_rng()

    def train_reader(self) -> Any:
        """The reader of the training data, its transforms fitted."""
        return fit(super().train_reader())

    def program(self, mesh: Any = None, device: str | None = None) -> Program:
        """The program as one process builds it, or as the part of it that `mesh` makes."""
        with self.seeded("build"):
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
