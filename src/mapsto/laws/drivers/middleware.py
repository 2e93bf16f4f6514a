"""How a wing's programs with middleware are built, stepped and read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ...core.laws import Trial
from ..compare import Array


class MiddlewareProgram(Protocol):
    """A program with middleware in its list: of the engine's `Program` what these laws drive, and what is read of it."""

    @property
    def position(self) -> int:
        """The number of steps that were taken."""
        ...

    def batch(self, step: int, size: int) -> Any:
        """The batch of a step as the program takes it: `middleware_inputs.records`, or what the example's `inputs` give."""
        ...

    def step(self, batch: Any) -> Any:
        """Take one step on a batch, in place; its metrics, which may stay on the device."""
        ...

    def fetch(self, window: Sequence[Any]) -> dict[str, float]:
        """The metrics of several steps as floats, pairs (sum, weight) averaged exactly."""
        ...

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Means over the batches, with the weights that middleware puts in place for it."""
        ...

    def state_tree(self) -> dict[str, Any]:
        """The whole state, that of each middleware under `middleware`; no copy is made."""
        ...

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Put back a state tree that `state_tree` of such a program gave."""
        ...

    def parameters(self) -> dict[str, Array]:
        """Copies of the program's parameters as NumPy arrays by name."""
        ...

    def evaluation_weights(self) -> dict[str, Array]:
        """The same while an evaluation would use them."""
        ...

    def trained(self) -> dict[str, Any]:
        """Copies of all that training makes, whatever groups the optimizer has: parameters, statistics, optimizer state."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Copies of all that a step or evaluation that fails must leave: parameters, modes, and what the next step reads."""
        ...


class Watch(Protocol):
    """Stands in a program's list around one mapping and changes nothing.

    seen: the gradients that passed, by parameter, a dict a pass; failing: whether it raises `middleware_inputs.Interrupted`.
    """

    seen: list[dict[str, Array]]
    failing: bool


class MiddlewareDriver(Protocol):
    """How programs with middleware are built: a small classifier, unless the example has a model or task of its own."""

    micro_batches: Any
    """The middleware that takes a batch in three micro-batches."""
    scaled: Any | None
    """The one that computes in low precision with a scaled loss; None where the framework has none."""

    def build(
        self,
        trial: Trial,
        middleware: Sequence[Any],
        *,
        plain: bool = False,
        momentum: bool = False,
        seed: int | None = None,
        evaluations: Any = None,
    ) -> MiddlewareProgram:
        """A fresh program, the same one each time.

        It has all that draws and counts (dropout, statistics, a schedule), in float32; where `plain` none of it, and SGD (with
        momentum) in float64, so that micro-batches do not matter. evaluations: its `note()` is called at each of the loss.
        """
        ...

    def watch(self, where: str) -> Watch:
        """An item of the list that sees gradients after `grad` or before `update`."""
        ...

    def edited(self, trial: Trial, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """What the example's `edits`, written in the framework's tensors, make of gradients."""
        ...

    def arrays(self, tree: Any) -> Any:
        """A state tree with arrays for tensors."""
        ...
