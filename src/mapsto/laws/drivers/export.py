"""How a wing's models are exported, and how what they become is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from ...core.laws import Trial

Run = Callable[[tuple[Any, ...], int], dict[str, Any]]
"""(inputs, seed) -> outputs as arrays by their place (`output 0`); None for one without numbers, as while it is traced."""


class ExportCase(Protocol):
    """One model that one mapping exports; inputs are tuples of arrays, or of nested tuples, lists and dicts of them.

    said: what the model is called; tolerance: `T0` where the artefact owes the model's bits, `T2` where it owes its accuracy
    against float64; sources: the modules that hold the model's source.
    """

    @property
    def said(self) -> str: ...
    @property
    def tolerance(self) -> Literal["T0", "T2"]: ...
    @property
    def sources(self) -> frozenset[str]: ...

    def build(self, dtype: str = "float32") -> Any:
        """A fresh model in the dtype, the same one each time, in the mode in which it is made."""
        ...

    def inputs(self, size: int, stream: str) -> tuple[Any, ...]:
        """Inputs of `size` records from the trial's seed."""
        ...

    def export(self, model: Any, given: tuple[Any, ...], folder: Path, dynamic: Any) -> Any:
        """The artefact, made on example inputs: in the folder, or an object. Raises MissingExtra where a package is missing.

        dynamic: whether the number of records may be another one later, or what the framework takes in the place of that.
        """
        ...

    def open(self, artefact: Any) -> Run:
        """An artefact as a function. Undecided where its sort is not known."""
        ...


class ExportDriver(Protocol):
    """What laws of exports ask of models and artefacts; a model is what `build` of a case gives."""

    def cases(self, trial: Trial) -> Iterable[ExportCase]:
        """What is judged, the smallest model first: of an export small models, of a layer itself. Skips where told to."""
        ...

    def tied(self, trial: Trial) -> tuple[ExportCase, ExportCase, int] | None:
        """Two cases whose models differ in that a weight is shared or stands twice, and its bytes; None where it has none."""
        ...

    def call(self, model: Any, given: tuple[Any, ...], seed: int) -> dict[str, Any]:
        """What `Run` gives, of a model in evaluation."""
        ...

    def draws(self, model: Any, given: tuple[Any, ...]) -> bool:
        """Whether a pass in evaluation draws random numbers."""
        ...

    def trained(self, case: ExportCase, seed: int) -> Any:
        """A fresh model amid training: in that mode but for one part, with other weights, statistics and gradients."""
        ...

    def train(self, model: Any, seed: int) -> None:
        """Give all weights and statistics other values, in place."""
        ...

    def take(self, model: Any, other: Any) -> None:
        """Copy all weights and statistics from a model of the same form, whatever its dtype, those that are not saved too."""
        ...

    def state(self, model: Any) -> dict[str, dict[str, Any]]:
        """Copies of all that an export must leave, by name: `parameters`, and modes, statistics, gradients, memory."""
        ...

    def sharing(self, model: Any, artefact: Any) -> tuple[dict[str, str], dict[str, str]] | None:
        """For each name of a weight, in the artefact and in the model, the first name of that weight; None where not known."""
        ...

    def elsewhere(
        self, trial: Trial, made: Sequence[tuple[ExportCase, Path, Sequence[tuple[Any, ...]]]], blocked: Sequence[str]
    ) -> list[list[dict[str, Any]]] | str:
        """Each artefact's outputs for its inputs, from seed 0, in a process that cannot import `blocked`.

        Where one does not load or run there: the last line of the error.
        """
        ...
