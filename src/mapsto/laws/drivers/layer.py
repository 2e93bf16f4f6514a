"""How a wing's layers and models are built, called, differentiated and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from ...core.laws import Example, Trial
from ..compare import Array
from .export import ExportDriver


class LayerDriver(Protocol):
    """How layers and models are built, called, differentiated and saved; what `build` gives only the driver knows.

    Inputs are tuples of arrays, or of nested tuples, lists and dicts of them. What is told of them is told by path: of inputs
    `input 0`, `input 1` (of nested ones `input 0[1]`, `input 0.mask`), of parameters `parameter NAME` with the names that
    `parameters` gives; of outputs any, such as `output` or `[0]`, the same ones in each pass.
    """

    exports: ExportDriver | None
    """How the framework itself exports layers; None, or left out, where it does not."""

    def settle(self, trial: Trial) -> Example:
        """The trial's example completed by trying: `inputs`, and in `more` what was found."""
        ...

    def build(self, trial: Trial, dtype: str = "float32", *, training: bool = False, stream: str = "build") -> Any:
        """A fresh one in the dtype and mode, the same one for each stream. Undecided where none can be built."""
        ...

    def set_mode(self, layer: Any, *, training: bool) -> None:
        """Switch it to training or evaluation, as a program does."""
        ...

    def inputs(self, trial: Trial, size: int, *, stream: str = "inputs", dtype: str = "float32") -> tuple[Any, ...]:
        """Inputs of `size` records from the trial's seed."""
        ...

    def exact(self, trial: Trial, size: int, *, training: bool = False) -> tuple[Any, tuple[Any, ...]]:
        """A fresh one and inputs in float64. Skips or is undecided where it does not run in it, and says why."""
        ...

    def used(self, trial: Trial, size: int, dtype: str = "float32") -> tuple[Any, tuple[Any, ...]]:
        """One whose weights and statistics are no longer those of a fresh one, in evaluation, and inputs, in the dtype."""
        ...

    def call(self, layer: Any, given: tuple[Any, ...], seed: int) -> dict[str, Any]:
        """Its outputs, random numbers drawn from the seed."""
        ...

    def see(
        self,
        trial: Trial,
        layer: Any,
        given: tuple[Any, ...],
        *,
        seed: int | None = None,
        backward: bool = True,
        fixed: Sequence[int] = (),
        frozen: Sequence[str] = (),
    ) -> dict[str, Any]:
        """`output`, `gradient` (of inputs and parameters, for normal gradients of the outputs) and `buffer` after one pass.

        The framework is asked for no gradients of the inputs with the numbers `fixed` and of the parameters named `frozen`.
        """
        ...

    def bare(self, layer: Any, given: tuple[Any, ...], seed: int) -> tuple[tuple[Any, ...], list[str]]:
        """A pass, forward and backward, as callers make one: inputs are handed over as they are, no stream is seeded, nothing
        is put back. seed: of the gradients of outputs. Returns what the inputs then hold, and paths of those written into."""
        ...

    def snapshot(self, layer: Any) -> dict[str, dict[str, Any]]:
        """Copies of what a pass might change, by name: `mode`, `parameters`, `buffers`, and what else the framework keeps."""
        ...

    def total(
        self,
        trial: Trial,
        layer: Any,
        given: tuple[Any, ...],
        *,
        seed: int,
        parameters: Mapping[str, Array] | None = None,
        gradients: bool = True,
        order: Literal[1, 2] = 1,
    ) -> tuple[float, dict[str, Array | None]]:
        """The sum of its outputs, each times normal numbers, and its gradients by path (`input 0`, `parameter NAME`).

        parameters: values to take in the place of some of its own, by name. The normal numbers are the same ones for a seed.
        Gradients are of all floating inputs and of all parameters that are trained. One is None where the total does not
        depend on it; there are none at all where nothing can be differentiated, or where `gradients` are not asked for (as at
        each end of a finite difference). The layer stays as it was.

        order 2: half the sum of squares of the outputs is added, so that their gradients are no constants; what is returned
        is the sum of this total's gradients, each times normal numbers, and the gradients of that.
        """
        ...

    def draws(self, layer: Any, given: tuple[Any, ...]) -> bool:
        """Whether a pass of the layer in this mode draws random numbers."""
        ...

    def parameters(self, layer: Any) -> dict[str, Array]:
        """Copies of the layer's parameters as NumPy arrays by name."""
        ...

    def state(self, layer: Any) -> dict[str, Array]:
        """Copies of its parameters and of what else it keeps from call to call (statistics, tables), by name."""
        ...

    def save(self, layer: Any) -> Any:
        """Its state as a checkpoint would keep it, independent of what comes after."""
        ...

    def load(self, layer: Any, saved: Any) -> None:
        """Load into the layer a state that `save` gave."""
        ...

    def has_state(self, layer: Any) -> bool:
        """Whether the layer has anything that `save` would keep."""
        ...

    def unsaved(self, layer: Any) -> list[str]:
        """Names of what the framework knows of it and does not save."""
        ...

    def check_attributes(self, trial: Trial) -> None:
        """Demand that no array which it holds outside of the framework's own places is used."""
        ...

    def differs_by_mode(self, layer: Any) -> bool:
        """Whether it holds one of the framework's layers whose training and evaluation differ by what they are."""
        ...

    def deterministic(self) -> AbstractContextManager[None]:
        """Within it the framework's algorithms are deterministic."""
        ...
