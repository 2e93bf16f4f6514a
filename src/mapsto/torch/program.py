"""The program: four nested mappings (see `mappings`) over one state, composed once when it is made."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..core.errors import ComposeError, DataError, MapstoError, SpecError, nearest
from ..core.plan import MESH, Placed
from .error_context import explain, note_batch
from .evaluate import evaluate, fetch, panels, predict
from .mappings import (
    Batch,
    Grad,
    Loss,
    Metrics,
    Step,
    Update,
    awaits_metric,
    base_grad,
    base_loss,
    base_step,
    base_update,
    closure_update,
    fold,
    needs_closure,
)
from .placement import place
from .saving import canonical, program_state, restore_program, weights
from .state import State
from .survey import asked
from .vitals import HealthProbe

MOST_LAYERS = 500
"""Layers that a summary lists."""


class Program:
    """A built program. Made by `build_program`; `program.step(batch)` is one step in place.

    model, optimizer, schedule and state may be used directly by one's own loop; `loss`, `grad`, `update` and `step_` are
    the composed mappings. modes: how modules stood at the end of the latest evaluation (see `survey`).
    """

    def __init__(self, state: State, task: Any, middleware: Sequence[tuple[Placed, Any]]) -> None:
        self.state, self.task, self.seed = state, task, state.seed
        self.middleware = {placed.name: made for placed, made in middleware}
        self.plan = [placed for placed, _ in middleware]
        closure = needs_closure(state.optimizer)
        if closure:
            _refuse_with_closure(state.optimizer, self.middleware)
        folded = [(made, placed.declared) for placed, made in middleware]
        self.loss: Loss = fold("loss", base_loss(task), folded)
        if (hooked := getattr(self.middleware.get(MESH), "hooked", None)) is not None:
            self.loss = hooked(self.loss)
        self.grad: Grad = fold("grad", base_grad(self.loss), folded)
        self.update: Update = fold("update", closure_update(self.grad) if closure else base_update(), folded)
        self.step_: Step = fold("step", base_step(self.grad, self.update, closure), folded)
        for made in self.middleware.values():
            if hasattr(made, "begin"):
                made.begin(state)
        self._vitals = HealthProbe(state)
        self.modes: dict[str, list[str]] = {}

    @property
    def model(self) -> nn.Module:
        return self.state.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.state.optimizer

    @property
    def schedule(self) -> Any:
        return self.state.schedule

    @property
    def reader_args(self) -> dict[str, Any]:
        """Arguments for a reader's `stream`: none, or `shard` and `shards`, this rank's micro-shards of each global batch."""
        mesh = self.state.mesh
        if not hasattr(mesh, "reader_args") and hasattr(mesh, "takes"):  # what it was called before
            warnings.warn(f"{type(mesh).__name__}.takes is called reader_args now", DeprecationWarning, stacklevel=2)
            return dict(mesh.takes)
        found: dict[str, Any] = getattr(mesh, "reader_args", {})
        return found

    @property
    def takes(self) -> dict[str, Any]:
        """What `reader_args` was called before."""
        warnings.warn("program.takes is called reader_args now", DeprecationWarning, stacklevel=2)
        return self.reader_args

    @property
    def attention_requested(self) -> bool:
        """Whether some rank requested attention (see `request_attention`): the same on every rank after the same step."""
        return bool(getattr(self.state.mesh, "attention_requested", False))

    def request_attention(self, wanted: bool = True) -> None:
        """Request attention of all ranks, such as to stop (or no more); the request goes along with the next step."""
        self.state.mesh.wants_attention = wanted

    @property
    def position(self) -> int:
        """Steps taken, which is the position of the next global batch."""
        return self.state.step

    # -- training ----------------------------------------------------------------------------------------------------
    def step(self, batch: Batch | tuple[Any, Any]) -> Metrics:
        """One step in place on a batch of arrays or tensors; the metrics stay on the device (see `fetch`).

        Raises DataError where the batch does not fit the model, naming the layer and the shapes.
        """
        state = self.state
        try:
            return self.step_(state, place(batch, state.device))
        except DataError as error:
            note_batch(error, state, batch)
            raise
        except (MapstoError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise explain(error, state, batch) from error

    @staticmethod
    def fetch(window: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The metrics of several steps as floats, copied from the device together: pairs averaged exactly, scalars by step."""
        return fetch(window)

    def rates(self) -> dict[str, float]:
        """The learning rate of each parameter group."""
        groups = self.state.optimizer.param_groups
        if len(groups) == 1:
            return {"lr": float(groups[0]["lr"])} if "lr" in groups[0] else {}
        return {f"lr/{i}": float(group["lr"]) for i, group in enumerate(groups) if "lr" in group}

    def vitals(self, parameters: bool) -> dict[str, Any]:
        """What this process can tell of itself at a log, and of its parameters (see `vitals`)."""
        return self._vitals(parameters)

    def survey(self) -> dict[str, Any]:
        """What a survey of the data asks (see `survey`)."""
        return asked(self.state.model, self.task)

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Hand evaluation metrics to a schedule that waits for one (`ReduceLROnPlateau`)."""
        schedule = self.state.schedule
        for name in self.awaits:
            if name not in metrics:
                raise SpecError(f"schedule: {type(schedule).__name__} waits for {name!r}; {nearest(name, metrics)}")
            schedule.step(metrics[name])

    @property
    def awaits(self) -> tuple[str, ...]:
        """The evaluation metric that the schedule is stepped by, where it is (`ReduceLROnPlateau`); else nothing."""
        schedule = self.state.schedule
        waits = schedule is not None and awaits_metric(schedule)
        return (getattr(schedule, "mapsto_metric", "valid/loss"),) if waits else ()

    # -- evaluating --------------------------------------------------------------------------------------------------
    @contextmanager
    def evaluating(self) -> Iterator[State]:
        """Within it: evaluation mode, no gradients, and the weights that middleware puts in place (such as averages)."""
        with ExitStack() as stack:
            for made in self.middleware.values():
                if (swapped := _evaluation_weights(made)) is not None:
                    stack.enter_context(swapped(self.state))
            stack.enter_context(self.state.evaluating())
            yield self.state

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The loss and the task's metrics over the batches, each record weighed once"""
        return evaluate(self, batches)

    def predict(self, batches: Iterable[Batch]) -> Iterator[dict[str, Any]]:
        """The task's predictions, a dict of NumPy arrays a batch."""
        return predict(self, batches)

    def panels(self, batches: Iterable[Batch]) -> list[dict[str, Any]]:
        """What the task shows in a report, as plain data."""
        return panels(self, batches)

    # -- state -------------------------------------------------------------------------------------------------------
    def weights(self) -> dict[str, Any]:
        """Copies of the canonical weights and buffers as NumPy arrays (CPU tensors where NumPy lacks the dtype)."""
        return self.state.mesh.gathered(weights(self.state.model, canonical(self.state, self.middleware)))

    def state_tree(self) -> dict[str, Any]:
        """The whole state as a tree: model, optimizer by parameter names, schedule, middleware, step."""
        return program_state(self.state, self.middleware)

    def restore(self, tree: Mapping[str, Any], *, reschedule: bool = False) -> None:
        """Put such a tree back. Raises CheckpointError naming what is missing, unexpected or does not fit.

        reschedule: the schedule, which must be fresh, is taken to the tree's step as this program has it.
        """
        restore_program(self.state, self.middleware, tree, reschedule=reschedule)

    def summary(self) -> dict[str, Any]:
        """For people: sizes, device and plan."""
        parameters = dict(self.state.model.named_parameters())
        return {
            "model": _own_name(self.state.model),
            "parameters": sum(p.numel() for p in parameters.values()),
            "trainable": sum(p.numel() for p in self.state.parameters),
            "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in parameters.values()}),
            "device": str(self.state.device),
            "optimizer": type(self.state.optimizer).__name__,
            "schedule": type(self.state.schedule).__name__ if self.state.schedule is not None else None,
            "middleware": [placed.name for placed in self.plan],
            "layers": _layers(self.state.model),
            **self.state.mesh.summary(),
        }


def _own_name(module: nn.Module) -> str:
    """The name of a module's own class: a mesh puts one of its own before it."""
    placed = ("torch.distributed.", "mapsto.torch.mesh.")
    own = next(c for c in type(module).__mro__ if not c.__module__.startswith(placed))
    return own.__name__


def _layers(model: nn.Module) -> list[dict[str, Any]]:
    """The modules that have parameters of their own, in the model's order, for people."""
    found: list[dict[str, Any]] = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and len(found) < MOST_LAYERS:
            sizes = {"parameters": sum(p.numel() for p in own), "trained": any(p.requires_grad for p in own)}
            found.append({"name": name, "class": _own_name(module), **sizes})
    return found


def _evaluation_weights(made: Any) -> Any:
    """The method of a middleware that swaps weights for evaluation, if it has one."""
    if not hasattr(made, "evaluation_weights") and hasattr(made, "lend"):  # what it was called before
        warnings.warn(f"{type(made).__name__}.lend is called evaluation_weights now", DeprecationWarning, stacklevel=2)
        return made.lend
    return getattr(made, "evaluation_weights", None)


def _refuse_with_closure(optimizer: Any, middleware: Mapping[str, Any]) -> None:
    for name, made in middleware.items():
        if getattr(made, "edits_gradients", False):
            raise ComposeError(
                f"middleware {name!r} changes gradients before the update or may skip it, and {type(optimizer).__name__} "
                "evaluates its own gradients in a closure: leave one of them out"
            )
