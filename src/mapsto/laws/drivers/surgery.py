"""How a wing's models are made, looked at and called before and after a surgery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ...core.laws import Trial


class SurgeryDriver(Protocol):
    """How models are made, looked at and called before and after a surgery; what a model is only the driver knows."""

    def model(self, trial: Trial, dtype: str = "float32") -> Any:
        """A fresh model in evaluation: of the example's `model` (a factory), or one with the usual layers."""
        ...

    def inputs(self, trial: Trial, dtype: str = "float32") -> tuple[Any, ...]:
        """Inputs of three records, their floating numbers in the dtype."""
        ...

    def operate(self, surgery: Callable[[Any], Any], model: Any, seed: int) -> Any:
        """What the surgery returns, a model in evaluation; random numbers are drawn from the seed."""
        ...

    def is_model(self, result: Any) -> bool:
        """Whether a value is a model of this framework."""
        ...

    def copy(self, model: Any) -> Any:
        """A model that shares nothing with it."""
        ...

    def anatomy(self, model: Any) -> dict[str, str]:
        """What it is made of, in words, by name: modules and what hangs on them, parameters and their shapes."""
        ...

    def state(self, model: Any) -> dict[str, Any]:
        """Copies of the model's parameters and buffers as NumPy arrays by name."""
        ...

    def call(self, model: Any, given: tuple[Any, ...]) -> Any:
        """The outputs of the model for these inputs as NumPy arrays."""
        ...

    def train(self, model: Any) -> None:
        """Change all parameters of the model in place, as training would."""
        ...

    def save(self, model: Any) -> Any:
        """Its state as a file would keep it."""
        ...

    def load(self, model: Any, saved: Any) -> None:
        """Put back what `save` gave into a model with the same surgery."""
        ...
