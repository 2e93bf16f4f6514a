"""How a wing's programs are built on ranks, and how these speak to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ...core.laws import Trial
from ..compare import Array


@dataclass
class Sums:
    """Over some records: gradients of the summed loss by the name of each trained parameter (None where there is none), the
    total of the loss and its weight."""

    gradients: dict[str, Array | None]
    total: float
    weight: float


class RankedProgram(Protocol):
    """The program of a spec on this rank; batches are as readers give them, values are whole wherever their parts lie.

    One whose step takes several turns has `turns` besides, the program of each, whose parameters are its own.
    """

    @property
    def reader_args(self) -> Mapping[str, Any]:
        """Of the engine's `Program`: `shard` and `shards` where it is given micro-shards."""
        ...

    def step(self, batch: Any) -> Any:
        """Take one step in place on what this rank reads of the global batch."""
        ...

    def sums(self, batches: Mapping[int, Any]) -> Sums:
        """Over the micro-shards of these numbers, on this process alone; those without records are left out."""
        ...

    def put(self, gradients: Mapping[str, Array | None], total: float, weight: float) -> None:
        """Let these, of the mean over all ranks, be what the next `update` is given."""
        ...

    def grad(self, batch: Any) -> None:
        """The gradient of the mean over the global batch, of which this is the rank's part, for the next `update`."""
        ...

    def gradients(self) -> dict[str, Array | None]:
        """Copies of the gradients as they are now, after `grad` or `update`."""
        ...

    def update(self) -> dict[str, float]:
        """Update by the gradients that are there; the metrics of the step."""
        ...

    def loss(self, batch: Any) -> tuple[float, float]:
        """Total and weight over a batch, evaluated."""
        ...

    def parameters(self) -> dict[str, Array]:
        """Copies of all parameters of the whole model as NumPy arrays by name, on every rank."""
        ...

    def holds(self) -> dict[str, Array]:
        """Copies, whole, of the parameters of which this rank holds all or a part, under every name that they have."""
        ...

    def names(self) -> list[list[str]]:
        """The names of each parameter that this rank holds: several of one that modules share."""
        ...

    def state(self) -> dict[str, Array]:
        """Copies of what replicas must have in common: parameters, buffers and optimizer state."""
        ...


class ProgramDriver(Protocol):
    """How the programs of specs are built on ranks that the checker has started, and how these ranks speak to each other."""

    def build(
        self,
        trial: Trial,
        spec: Any,
        reader: Any,
        *,
        axes: Mapping[str, int] | None = None,
        middleware: Sequence[Any] | None = None,
        exact: bool = True,
        evaluating: bool = False,
        micro_shards: int | None = None,
        strict: bool = False,
        stated: bool = False,
    ) -> RankedProgram:
        """The spec's program on the CPU for `program_inputs.STEPS` steps of the reader.

        axes: the mesh (None: this process alone, which sees no other rank); stated: it is the spec's own mesh in these sizes;
        middleware: instead of the spec's; exact: in float64; evaluating: without dropout and statistics of batches. Skips
        where the framework refuses the model on several ranks.
        """
        ...

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        ...

    def patience(self, seconds: float) -> AbstractContextManager[None]:
        """Within it no rank waits longer than so many seconds for the others."""
        ...
