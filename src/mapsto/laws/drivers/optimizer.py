"""How a wing's optimizers are built, stepped, saved and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ...core.laws import Trial
from ..compare import Array
from ..optimizer_problem import Problem


class Optimizer(Protocol):
    """An optimizer that was built on the parameters of a problem, before its first update."""

    def parameters(self) -> list[Any]:
        """Copies of all parameters as NumPy arrays, in the problem's order."""
        ...

    def options(self) -> dict[str, Any]:
        """The options of the first group by their usual names, such as `lr`, `weight_decay`, `betas`.

        Laws read `lr` and `weight_decay` (two groups differ by them; without an `lr` that is a float groups are not judged) and
        `maximize` (then the first update goes uphill). All of them are given to the `formula` that an author states.
        """
        ...

    def set_rate(self, change: Callable[[float], float], *, first: bool = False) -> None:
        """Change the learning rates of all groups (or of the first alone), as a schedule would, where they are numbers."""
        ...

    def update(self, t: int, without: Sequence[int] = ()) -> None:
        """One update with the problem's gradients of step t; `without`: parameters that have none."""
        ...

    def update_with(self, gradients: Sequence[Array]) -> None:
        """One update with these gradients, one a parameter."""
        ...

    def state(self) -> dict[str, Any]:
        """Copies of all that is kept from update to update, by path; arrays where it is tensors."""
        ...

    def state_of(self, number: int) -> dict[str, Any]:
        """What is kept of one parameter; empty where nothing is."""
        ...

    def has_state(self) -> bool:
        """Whether the optimizer keeps anything between steps."""
        ...

    def save(self) -> Any:
        """Its state as a checkpoint would keep it, independent of what comes after; with the rates that were set since."""
        ...

    def load(self, saved: Any) -> None:
        """Load into the optimizer a state that `save` gave."""
        ...


class OptimizerDriver(Protocol):
    """How optimizers are built and stepped."""

    def problem(self, trial: Trial) -> Problem:
        """The problem of a trial, with the shapes and tags that suit the optimizer. Undecided where nothing suits."""
        ...

    def build(
        self,
        trial: Trial,
        *,
        dtype: str = "float64",
        parameters: Sequence[Any] | None = None,
        groups: Sequence[tuple[Sequence[int], Mapping[str, Any]]] | None = None,
        **options: Any,
    ) -> Optimizer:
        """A fresh one with the example's arguments and, over them, these options, which are those of an author's `variants`.

        dtype: of the parameters, `float64`, `float32` or `bfloat16`; one that the framework has not is skipped, which says why
        (`trial.skip("it has no bfloat16")`), and arrays of `bfloat16` are told as `compare.Exact`.
        parameters: their values (default: the problem's start; further ones get gradients of zero); groups: numbers of
        parameters with their own options, what is in none being left alone (default: one group of all).
        """
        ...
