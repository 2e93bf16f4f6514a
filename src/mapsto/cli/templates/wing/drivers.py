"""Drivers: how the laws of all wings build, feed and read what is native to this framework, a class a kind.

What each method gives say the protocols in `mapsto.laws.drivers`, and which of them a law needs, docs/laws.md. A driver of
another kind (loss, optimizer, surgery, ...) is one class more here and one line in `laws.py`. Numbers go in and out as NumPy
arrays. What a driver does wrong is told as its fault, with this file and the line.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np

from mapsto.core.laws import Example, Trial
from mapsto.core.random import derive
from mapsto.laws.schedule_inputs import RATES, arguments, demand_arguments

from .framework import Array, Layer, Schedule


class Layers:
    """Layers of one input, as the laws see them (`mapsto.laws.drivers.LayerDriver`)."""

    def settle(self, trial: Trial) -> Example:
        """What could be found by trying; here the author states it all."""
        if trial.example.inputs is None:
            trial.undecided("state what it is fed: mapsto.example(it, args={...}, inputs=lambda size, rng: (array,))")
        return trial.example

    def build(self, trial: Trial, dtype: str = "float32", *, training: bool = False, stream: str = "build") -> Layer:
        """All random numbers come from the trial's seed, so that two builds are alike."""
        rng = np.random.default_rng(derive(trial.seed, stream))
        subject = trial.subject  # an instance has `make`, which copies it
        layer: Layer = subject.make() if subject.make is not None else subject.target(rng, **trial.example.args)
        layer.weights = {name: w.astype(dtype) for name, w in layer.weights.items()}
        layer.training = training
        return layer

    def inputs(self, trial: Trial, size: int, *, stream: str = "inputs", dtype: str = "float32") -> tuple[Any, ...]:
        """The author's inputs, their floating numbers in the dtype."""
        make = self.settle(trial).inputs
        given = make(size, np.random.default_rng(derive(trial.seed, stream, size))) if make is not None else ()
        return tuple(x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x for x in given)

    def exact(self, trial: Trial, size: int, *, training: bool = False) -> tuple[Layer, tuple[Any, ...]]:
        """In float64."""
        return self.build(trial, "float64", training=training), self.inputs(trial, size, dtype="float64")

    def used(self, trial: Trial, size: int, dtype: str = "float32") -> tuple[Layer, tuple[Any, ...]]:
        """One whose weights are no longer those of a fresh one."""
        layer = self.build(trial, dtype)
        layer.weights = {name: w + w.dtype.type(0.5) for name, w in layer.weights.items()}
        return layer, self.inputs(trial, size, dtype=dtype)

    def call(self, layer: Layer, given: tuple[Any, ...], seed: int) -> dict[str, Any]:
        """Outputs by path."""
        return {"output": layer.forward(given[0], np.random.default_rng(seed))[0]}

    def see(
        self,
        trial: Trial,
        layer: Layer,
        given: tuple[Any, ...],
        *,
        seed: int | None = None,
        backward: bool = True,
        fixed: Sequence[int] = (),
        frozen: Sequence[str] = (),
    ) -> dict[str, Any]:
        """One pass: outputs, gradients but those of fixed inputs and frozen parameters, and buffers (there are none)."""
        y, kept = layer.forward(given[0], np.random.default_rng(derive(trial.seed, "pass") if seed is None else seed))
        seen: dict[str, Any] = {"output": {"output": y}, "buffer": {}}
        if backward:
            left = {f"input {i}" for i in fixed} | {f"parameter {name}" for name in frozen}
            found = _gradients(layer, kept, np.ones_like(y))
            seen["gradient"] = {path: g for path, g in found.items() if path not in left}
        return seen

    def bare(self, layer: Layer, given: tuple[Any, ...], seed: int) -> tuple[tuple[Any, ...], list[str]]:
        """A pass as callers make one, and what the inputs then hold; no input is declared to be written into."""
        passed = copy.deepcopy(given)
        y, kept = layer.forward(passed[0], np.random.default_rng(seed))
        layer.backward(kept, np.ones_like(y))
        return passed, []

    def snapshot(self, layer: Layer) -> dict[str, dict[str, Any]]:
        """What a pass might change."""
        return {"mode": {"layer": layer.training}, "parameters": self.parameters(layer), "buffers": {}}

    def total(
        self,
        trial: Trial,
        layer: Layer,
        given: tuple[Any, ...],
        *,
        seed: int,
        parameters: Mapping[str, Array] | None = None,
        gradients: bool = True,
        order: Literal[1, 2] = 1,
    ) -> tuple[float, dict[str, Any]]:
        """The sum of outputs times normal numbers, and its gradients by path."""
        if order == 2:
            trial.skip("its framework differentiates once")
        layer = copy.deepcopy(layer)
        layer.weights |= parameters or {}
        y, kept = layer.forward(given[0], np.random.default_rng(seed))
        normal = np.asarray(np.random.default_rng(seed + 1).normal(size=y.shape))
        return float((y * normal).sum()), _gradients(layer, kept, normal) if gradients else {}

    def set_mode(self, layer: Layer, *, training: bool) -> None:
        """For training or for evaluation."""
        layer.training = training

    def draws(self, layer: Layer, given: tuple[Any, ...]) -> bool:
        """Whether it asks its generator for anything."""
        rng = np.random.default_rng(0)
        before = copy.deepcopy(rng.bit_generator.state)
        layer.forward(given[0], rng)
        return bool(rng.bit_generator.state != before)

    def parameters(self, layer: Layer) -> dict[str, Array]:
        """Copies by name."""
        return copy.deepcopy(layer.weights)

    def state(self, layer: Layer) -> dict[str, Array]:
        """Parameters and statistics; this framework has none."""
        return self.parameters(layer)

    def save(self, layer: Layer) -> Any:
        """The way your framework writes a checkpoint."""
        return self.parameters(layer)

    def load(self, layer: Layer, saved: Any) -> None:
        """The way your framework reads it."""
        layer.weights = copy.deepcopy(saved)

    def has_state(self, layer: Layer) -> bool:
        """Whether there is anything to save."""
        return bool(layer.weights)

    def unsaved(self, layer: Layer) -> list[str]:
        """What the framework knows of a layer and does not save."""
        del layer
        return []

    def check_attributes(self, trial: Trial) -> None:
        """Arrays in other attributes would not be saved: nothing may depend on them."""
        layer = self.build(trial)
        for name, value in vars(layer).items():
            trial.demand(not isinstance(value, np.ndarray), f"the array in the attribute {name} is not among its weights")

    def differs_by_mode(self, layer: Layer) -> bool:
        """Whether it holds one of the framework's own layers that act in training alone."""
        del layer
        return False

    def deterministic(self) -> AbstractContextManager[None]:
        """NumPy is."""
        return nullcontext()


def _gradients(layer: Layer, kept: Any, gradient: Array) -> dict[str, Array]:
    """By path: `input 0`, and `parameter NAME` of each weight."""
    of_input, of_weights = layer.backward(kept, gradient)
    return {"input 0": of_input, **{f"parameter {name}": g for name, g in of_weights.items()}}


class Driven:
    """A schedule that was built, and the rates it sets (`mapsto.laws.drivers.Schedule`)."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.bases = schedule, RATES

    def settings(self) -> list[dict[str, float]]:
        """The rate of each group."""
        return [{"lr": base * self.schedule.factor()} for base in self.bases]

    def reported_rates(self) -> list[float] | None:
        """What the schedule says of the rates by itself: nothing."""
        return None

    def advance(self, t: int) -> None:
        """Update t was made."""
        del t
        self.schedule.updates += 1

    def save(self) -> Any:
        """All of its state."""
        return self.schedule.updates

    def load(self, saved: Any, order: str) -> None:
        """There is one order only."""
        del order
        self.schedule.updates = saved


class Schedules:
    """Schedules, as the laws see them (`mapsto.laws.drivers.ScheduleDriver`)."""

    orders = ("the schedule alone",)

    def build(self, trial: Trial, *, variant: Mapping[str, Any] | None = None) -> Driven:
        """A fresh one; of an instance, or of arguments that nobody stated, the author is told what to write."""
        demand_arguments(trial)
        return Driven(trial.subject.target(**arguments(trial, variant)))
