"""How a wing's losses are built, fed and differentiated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ...core.laws import Example, Trial
from ..compare import Array


@dataclass
class LossValue:
    """A value of a loss, in float64 unless a lower precision was asked for (then arrays may be `compare.Exact`).

    form: `weighted` (it returned total and weight), `unreduced`, or `scalar`; total: what it returned, summed; weight: where
    it told one; gradients: of the total, by path (`input 0`, `parameter NAME`); losses: the unreduced ones.
    """

    form: Literal["weighted", "unreduced", "scalar"]
    total: Array
    weight: float | None
    gradients: dict[str, Array]
    losses: Array | None = None


class LossDriver(Protocol):
    """How losses are built and fed; a loss itself is whatever `build` gives, and only the driver calls it."""

    def settle(self, trial: Trial) -> Example:
        """The trial's example completed by trying (`mapsto.laws.discovery.settled` does so once a subject), or as it is.

        What it may tell in `more`: `fixed`, numbers of the inputs that are no predictions, the targets first (else the second
        input); `axes`, the axis of records of each input (else 0); `domain` of predictions, `real`, `probability` or
        `log_probability` (else `real`); `known_weight`, what a mean of the framework's own divides by.
        """
        ...

    def build(self, trial: Trial, dtype: str = "float64", **options: Any) -> Any:
        """A fresh loss with the example's arguments and these options, the same one each time. Undecided where none can be."""
        ...

    def inputs(
        self,
        trial: Trial,
        size: int,
        *,
        stream: str = "inputs",
        dtype: str = "float64",
        make: Callable[..., Any] | None = None,
    ) -> tuple[Any, ...]:
        """Inputs of `size` records as arrays, from the trial's seed and the example's `inputs` (or another maker)."""
        ...

    def look(
        self,
        trial: Trial,
        loss: Any,
        given: tuple[Any, ...],
        dtype: str = "float64",
        *,
        parameters: Mapping[str, Array] | None = None,
    ) -> LossValue:
        """One evaluation on arrays, their floating numbers in the dtype, with gradients of predictions and parameters.

        parameters: values to take in the place of some of the loss's own, by name; it stays as it was.
        A dtype that the framework has not is skipped (`trial.skip("it has no bfloat16")`).
        """
        ...

    def parameters(self, loss: Any) -> dict[str, Array]:
        """Copies of the parameters of its own that are trained, by name; none of most losses."""
        ...

    def weighed(self, loss: Any, weight: Any = None) -> Any:
        """The loss as the wing's programs take it, with (total, weight): unreduced losses summed, a mean times its weight."""
        ...

    def native(self, array: Any) -> Any:
        """An array as the framework's own, for functions that the author stated (`weight`, `mean`)."""
        ...

    def no_kernel(self, error: Exception) -> bool:
        """Whether an error says that the framework has no kernel for a dtype."""
        ...
