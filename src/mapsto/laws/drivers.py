"""What a wing tells the laws of a native kind: one small driver a kind, numbers and NumPy arrays in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..core.laws import Example, Trial
from .compare import Array
from .optimizer_problem import Problem


class Schedule(Protocol):
    """A schedule that was built, and that whose rate it sets, before update 0."""

    bases: Sequence[float]
    """The rate of each parameter group as it was stated; one where the framework's schedules know no groups."""

    def settings(self) -> list[dict[str, float]]:
        """For each group the numbers that a schedule may set, by name: `lr`, and perhaps a momentum."""
        ...

    def told(self) -> list[float] | None:
        """The rate of each group in the schedule's own words; None where it has none beside `settings`."""
        ...

    def advance(self, t: int) -> None:
        """Update t, and the step of the schedule after it; what it watches is `schedule_inputs.metric(t)`."""
        ...

    def save(self) -> Any:
        """Its state as a checkpoint would keep it, independent of what comes after."""
        ...

    def load(self, saved: Any, order: str) -> None:
        """Put back what `save` gave, in one of the driver's orders."""
        ...


class ScheduleDriver(Protocol):
    """How schedules are driven: `build` gives a fresh one."""

    orders: Sequence[str]
    """The orders in which what was saved may be put back (`optimizer first`, `schedule first`); at least one."""

    def build(self, trial: Trial, *, variant: Mapping[str, Any] | None = None) -> Schedule:
        """A fresh one with the example's arguments, or with those of a variant (`schedule_inputs.arguments`)."""
        ...


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
        """The trial's example completed by trying: `more` has `fixed`, `axes` and `domain`, and `known_weight` where known."""
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

    def look(self, trial: Trial, loss: Any, given: tuple[Any, ...], dtype: str = "float64") -> LossValue:
        """One evaluation on arrays, their floating numbers in the dtype, with gradients of predictions and parameters."""
        ...

    def weighed(self, loss: Any, weight: Any = None) -> Any:
        """The loss as the wing's programs take it, with (total, weight): unreduced losses summed, a mean times its weight."""
        ...

    def native(self, array: Any) -> Any:
        """An array as the framework's own, for functions that the author stated (`weight`, `mean`)."""
        ...

    def rounded(self, array: Array, dtype: str) -> Array:
        """The numbers of an array rounded to a dtype, in float64."""
        ...

    def no_kernel(self, error: Exception) -> bool:
        """Whether an error says that the framework has no kernel for a dtype."""
        ...


class Optimizer(Protocol):
    """An optimizer that was built on the parameters of a problem, before its first update."""

    def parameters(self) -> list[Any]:
        """Copies of all parameters as arrays."""
        ...

    def options(self) -> dict[str, Any]:
        """The options of the first group by their usual names: `lr`, `weight_decay`, `betas`, ..."""
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
        """Whether anything is kept."""
        ...

    def save(self) -> Any:
        """Its state as a checkpoint would keep it, independent of what comes after."""
        ...

    def load(self, saved: Any) -> None:
        """Put back what `save` gave."""
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
        """A fresh one with the example's arguments and these options.

        parameters: their values (default: the problem's start; further ones get gradients of zero); groups: numbers of
        parameters with their own options, what is in none being left alone (default: one group of all).
        """
        ...


class LayerDriver(Protocol):
    """How layers and models are built, called, differentiated and saved; what `build` gives only the driver knows.

    Inputs are tuples of arrays, or of nested tuples, lists and dicts of them; outputs are leaves by path.
    """

    def settle(self, trial: Trial) -> Example:
        """The trial's example completed by trying: `inputs`, and in `more` what was found."""
        ...

    def build(self, trial: Trial, dtype: str = "float32", *, training: bool = False, stream: str = "build") -> Any:
        """A fresh one in the dtype and mode, the same one for each stream. Undecided where none can be built."""
        ...

    def inputs(self, trial: Trial, size: int, *, stream: str = "inputs", dtype: str = "float32") -> tuple[Any, ...]:
        """Inputs of `size` records from the trial's seed."""
        ...

    def exact(self, trial: Trial, size: int, *, training: bool = False) -> tuple[Any, tuple[Any, ...]]:
        """A fresh one and inputs in float64. Skips or is undecided where it does not run in it, and says why."""
        ...

    def used(self, trial: Trial, size: int) -> tuple[Any, tuple[Any, ...]]:
        """One whose weights and statistics are no longer those of a fresh one, in evaluation, and inputs."""
        ...

    def call(self, layer: Any, given: tuple[Any, ...], seed: int) -> dict[str, Any]:
        """Its outputs, random numbers drawn from the seed."""
        ...

    def see(
        self, trial: Trial, layer: Any, given: tuple[Any, ...], *, seed: int | None = None, backward: bool = True
    ) -> dict[str, Any]:
        """`output`, `gradient` (of inputs and parameters, for normal gradients of the outputs) and `buffer` after one pass."""
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
    ) -> tuple[float, dict[str, Array | None]]:
        """The sum of its outputs, each times normal numbers, and its gradients by path (`input 0`, `parameter NAME`).

        parameters: values to take in the place of some of its own, by name. The normal numbers are the same ones for a seed.
        Gradients are of all floating inputs and of all parameters that are trained. One is None where the total does not
        depend on it; there are none at all where nothing can be differentiated, or where `gradients` are not asked for (as at
        each end of a finite difference). The layer stays as it was.
        """
        ...

    def draws(self, layer: Any, given: tuple[Any, ...]) -> bool:
        """Whether a pass draws random numbers."""
        ...

    def parameters(self, layer: Any) -> dict[str, Array]:
        """Copies of its parameters by name."""
        ...

    def save(self, layer: Any) -> Any:
        """Its state as a checkpoint would keep it, independent of what comes after."""
        ...

    def load(self, layer: Any, saved: Any) -> None:
        """Put back what `save` gave."""
        ...

    def has_state(self, layer: Any) -> bool:
        """Whether anything of it is saved."""
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


class MiddlewareProgram(Protocol):
    """A program with middleware in its list: of the engine's `Program` what these laws drive, and what is read of it."""

    @property
    def position(self) -> int:
        """Steps taken."""
        ...

    def batch(self, step: int, size: int) -> Any:
        """The batch of a step as the program takes it: `middleware_inputs.records`, or what the example's `inputs` give."""
        ...

    def step(self, batch: Any) -> Any:
        """One step in place; its metrics."""
        ...

    def fetch(self, window: Sequence[Any]) -> dict[str, float]:
        """The metrics of steps as floats."""
        ...

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Means over the batches, with the weights that middleware lend."""
        ...

    def state_tree(self) -> dict[str, Any]:
        """The whole state, that of each middleware under `middleware`; no copy is made."""
        ...

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Put such a tree back."""
        ...

    def parameters(self) -> dict[str, Array]:
        """Copies of the parameters by name."""
        ...

    def lent(self) -> dict[str, Array]:
        """The same while an evaluation would use them."""
        ...

    def trained(self) -> dict[str, Any]:
        """Copies of all that training makes, whatever groups the optimizer has: parameters, statistics, optimizer state."""
        ...

    def held(self) -> dict[str, Any]:
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


@dataclass
class Sums:
    """Over some records: gradients of the summed loss by the name of each trained parameter (None where there is none), the
    total of the loss and its weight."""

    gradients: dict[str, Array | None]
    total: float
    weight: float


class RankedProgram(Protocol):
    """The program of a spec on this rank; batches are as readers give them, values are whole wherever their parts lie."""

    @property
    def takes(self) -> Mapping[str, Any]:
        """Of the engine's `Program`: `shard` and `shards` where it is given micro-shards."""
        ...

    def step(self, batch: Any) -> Any:
        """One step in place."""
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
        """Copies of all parameters."""
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
    ) -> RankedProgram:
        """The spec's program on the CPU for `program_inputs.STEPS` steps of the reader.

        axes: the mesh (None: this process alone); middleware: instead of the spec's; exact: in float64; evaluating: without
        dropout and statistics of batches. Skips where the framework refuses the model on several ranks.
        """
        ...

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        ...

    def patience(self, seconds: float) -> AbstractContextManager[None]:
        """Within it no rank waits longer than so many seconds for the others."""
        ...


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
        """Whether it is one."""
        ...

    def copy(self, model: Any) -> Any:
        """A model that shares nothing with it."""
        ...

    def anatomy(self, model: Any) -> dict[str, str]:
        """What it is made of, in words, by name: modules and what hangs on them, parameters and their shapes."""
        ...

    def state(self, model: Any) -> dict[str, Any]:
        """Copies of its state by name."""
        ...

    def call(self, model: Any, given: tuple[Any, ...]) -> Any:
        """Its outputs as arrays."""
        ...

    def train(self, model: Any) -> None:
        """Change all parameters in place."""
        ...

    def save(self, model: Any) -> Any:
        """Its state as a file would keep it."""
        ...

    def load(self, model: Any, saved: Any) -> None:
        """Put back what `save` gave into a model with the same surgery."""
        ...
