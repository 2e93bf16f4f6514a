"""The laws of layers judge plain classes of NumPy arrays with a backward pass of their own."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from mapsto.core.laws import Example, Subject, Trial, Verdict, find_law, verdict
from mapsto.core.random import derive
from mapsto.laws.relations import equivariant_under, permuted, within

PATHS = ("input 0", "parameter W", "parameter b")
STEP = 1e-30


class Layer:
    """tanh(x W + b) over the last axis, with dropout in training where a rate is stated."""

    def __init__(self, rng: np.random.Generator, rate: float = 0.0) -> None:
        self.weights = {"W": rng.normal(size=(4, 3)), "b": rng.normal(size=3)}
        self.rate, self.training = rate, False

    def forward(self, x: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        """The output, and what backward needs."""
        kept = (rng.random(3) >= self.rate) / (1 - self.rate) if self.rate and self.training else np.ones(3)
        y = np.tanh(x @ self.weights["W"] + self.weights["b"]) * kept
        return y, (x, y, kept)

    def backward(self, saved: Any, gradient: Any, wanted: Collection[str] = PATHS) -> dict[str, Any]:
        x, y, kept = saved
        inner = gradient * (kept - y * y / np.where(kept, kept, 1))
        flat = inner.reshape(-1, 3)
        all_of_them = (inner @ self.weights["W"].T, x.reshape(-1, 4).T @ flat, flat.sum(0))
        return {path: g for path, g in zip(PATHS, all_of_them, strict=True) if path in wanted}

    def state(self) -> dict[str, Any]:
        return copy.deepcopy(self.weights)

    def restore(self, state: dict[str, Any]) -> None:
        self.weights = copy.deepcopy(state)


class ForgetsFactor(Layer):
    def backward(self, *given: Any) -> dict[str, Any]:
        return {k: 2 * g if k == "parameter b" else g for k, g in super().backward(*given).items()}


class Detached(Layer):
    def backward(self, *given: Any) -> dict[str, Any]:
        return {**super().backward(*given), "parameter W": None}


class SavesNumbers(Layer):
    """What backward is given no longer depends on the weights."""

    def forward(self, x: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        y, (x, saved, kept) = super().forward(x, rng)
        return y, (x, saved.real, kept)


class AllOrNothing(Layer):
    def backward(self, saved: Any, gradient: Any, wanted: Collection[str] = PATHS) -> dict[str, Any]:
        return super().backward(saved, gradient, wanted) if "input 0" in wanted else {}


class WritesIntoInput(Layer):
    def forward(self, x: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        x *= 2
        return super().forward(x, rng)


class Trains(Layer):
    def forward(self, x: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        made = super().forward(x, rng)
        self.training = True
        return made


class Drifts(Layer):
    def forward(self, x: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        self.weights["b"] = self.weights["b"] + 1
        return super().forward(x, rng)


class MixesRows(Layer):
    def forward(self, x: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        return super().forward(x - x.mean(0, keepdims=True), rng)


class SeesTheFuture(Layer):
    def forward(self, x: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        return super().forward(x + np.roll(x, -1, 1), rng)


class LosesBias(Layer):
    def state(self) -> dict[str, Any]:
        return {"W": self.weights["W"].copy()}

    def restore(self, state: dict[str, Any]) -> None:
        self.weights["W"] = state["W"].copy()


class OwnStream(Layer):
    def forward(self, x: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        return super().forward(x + np.random.normal(), rng)  # the bug


class Remembers(Layer):
    """What it was given first is a part of all that follows, of every instance."""

    seen: ClassVar[list[Any]] = []

    def forward(self, x: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        self.seen.append(x[:1, :1])
        return super().forward(x + 0.1 * self.seen[-2:][0], rng)


class Driver:
    """Layers as the laws see them, in NumPy."""

    def settle(self, trial: Trial) -> Example:
        return trial.example

    def build(self, trial: Trial, dtype: str = "float32", *, training: bool = False, stream: str = "build") -> Layer:
        made: Layer = trial.subject.target(np.random.default_rng(derive(trial.seed, stream)), **trial.example.args)
        made.weights = {k: w.astype(dtype) for k, w in made.weights.items()}
        made.training = training
        return made

    def set_mode(self, layer: Layer, *, training: bool) -> None:
        layer.training = training

    def inputs(self, trial: Trial, size: int, *, stream: str = "inputs", dtype: str = "float32") -> tuple[Any, ...]:
        return (np.random.default_rng(derive(trial.seed, stream, size)).normal(size=(size, 5, 4)).astype(dtype),)

    def exact(self, trial: Trial, size: int, *, training: bool = False) -> tuple[Layer, tuple[Any, ...]]:
        return self.build(trial, "float64", training=training), self.inputs(trial, size, dtype="float64")

    def used(self, trial: Trial, size: int, dtype: str = "float32") -> tuple[Layer, tuple[Any, ...]]:
        layer = self.build(trial, dtype)
        layer.weights = {k: w + 1 for k, w in layer.weights.items()}
        return layer, self.inputs(trial, size, dtype=dtype)

    def call(self, layer: Layer, given: tuple[Any, ...], seed: int) -> dict[str, Any]:
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
        seed = derive(trial.seed, "pass") if seed is None else seed
        y, saved = layer.forward(given[0], np.random.default_rng(seed))
        wanted = set(PATHS) - {f"input {i}" for i in fixed} - {f"parameter {n}" for n in frozen}
        found = {"gradient": layer.backward(saved, np.ones_like(y), wanted)} if backward else {}
        return {"output": {"output": y}, "buffer": {}, **found}

    def bare(self, layer: Layer, given: tuple[Any, ...], seed: int) -> tuple[tuple[Any, ...], list[str]]:
        passed = copy.deepcopy(given)
        y, saved = layer.forward(passed[0], np.random.default_rng(seed))
        layer.backward(saved, np.ones_like(y))
        return passed, []

    def snapshot(self, layer: Layer) -> dict[str, dict[str, Any]]:
        return {"mode": {"layer": layer.training}, "parameters": copy.deepcopy(layer.weights), "buffers": {}}

    def total(
        self,
        trial: Trial,
        layer: Layer,
        given: tuple[Any, ...],
        *,
        seed: int,
        parameters: Mapping[str, Any] | None = None,
        gradients: bool = True,
        order: Literal[1, 2] = 1,
    ) -> tuple[float, dict[str, Any]]:
        """A second derivative is that of the gradient along a way: its imaginary part after a step along the imaginary axis."""
        moved = copy.deepcopy(layer)
        moved.weights |= parameters or {}

        def total(way: Sequence[Any] = (0, 0, 0)) -> tuple[Any, dict[str, Any]]:
            there = copy.deepcopy(moved)
            there.weights = {
                n: w + 1j * STEP * v if np.any(v) else w for (n, w), v in zip(there.weights.items(), way[1:], strict=True)
            }
            y, saved = there.forward(given[0] + (1j * STEP * way[0] if np.any(way[0]) else 0), np.random.default_rng(seed))
            normal = np.random.default_rng(seed + 1).normal(size=y.shape)
            return (y * normal).sum(), there.backward(saved, normal + y if order == 2 else normal)

        value, found = total()
        if order == 1:
            return float(value), found if gradients else {}
        rng = np.random.default_rng(seed + 2)
        way = [rng.normal(size=x.shape) for x in (given[0], *moved.weights.values())]
        slope = float(sum((found[path] * v).sum() for path, v in zip(PATHS, way, strict=True)))
        return slope, {path: np.imag(g) / STEP for path, g in total(way)[1].items()}

    def draws(self, layer: Layer, given: tuple[Any, ...]) -> bool:
        return bool(layer.rate and layer.training)

    def parameters(self, layer: Layer) -> dict[str, Any]:
        return copy.deepcopy(layer.weights)

    def state(self, layer: Layer) -> dict[str, Any]:
        return self.parameters(layer)

    def save(self, layer: Layer) -> Any:
        return layer.state()

    def load(self, layer: Layer, saved: Any) -> None:
        layer.restore(saved)

    def has_state(self, layer: Layer) -> bool:
        return True

    def unsaved(self, layer: Layer) -> list[str]:
        return []

    def check_attributes(self, trial: Trial) -> None: ...

    def differs_by_mode(self, layer: Layer) -> bool:
        return False

    def deterministic(self) -> AbstractContextManager[None]:
        return nullcontext()


class Misnames(Driver):
    """Gradients of parameters by their names alone, which no law would find."""

    def total(self, *args: Any, **options: Any) -> tuple[float, dict[str, Any]]:
        value, found = super().total(*args, **options)
        return value, {path.removeprefix("parameter "): g for path, g in found.items()}


def judged(target: type, law: str, *tags: str, driver: Any = Driver, **args: Any) -> Verdict:
    example = Example(args=args, tags=frozenset(tags))
    subject = Subject(kind="layer", label=target.__name__, reference="", target=target, example=example, driver=driver())
    return verdict(Trial(subject, find_law(f"layer.{law}")))


@pytest.mark.parametrize(
    "law",
    [
        "gradients",
        "double_gradients",
        "partial_gradients",
        "purity",
        "row_independence",
        "causality",
        "state",
        "rerun",
        "modes",
    ],
)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_a_right_one_keeps_them(law: str, rate: float) -> None:
    tags = ("row_independent", "causal", "twice_differentiable", *(["mode_dependent"] if rate else []))
    made = judged(Layer, law, *tags, rate=rate)
    assert made.status == "pass", made.reason


@pytest.mark.parametrize(
    ("target", "law", "said"),
    [
        (ForgetsFactor, "gradients", "its gradient is 2 of what it should be"),
        (Detached, "gradients", "its gradient is missing"),
        (SavesNumbers, "double_gradients", "its second derivative is"),
        (AllOrNothing, "partial_gradients", "None"),
        (WritesIntoInput, "purity", "the input's memory was written"),
        (Trains, "purity", "the pass changed mode"),
        (Drifts, "purity", "the pass changed parameters"),
        (OwnStream, "purity", "an extra draw, or a seed that was set"),
        (MixesRows, "row_independence", "over the record axis"),
        (SeesTheFuture, "causality", "a later position is read"),
        (LosesBias, "state", "state that is not in what it saves"),
        (Remembers, "history", "a cache of an earlier call"),
        (OwnStream, "rerun", "a stream that the framework's seed does not set"),
    ],
)
def test_a_wrong_one_is_caught_with_its_cause(target: type, law: str, said: str) -> None:
    made = judged(target, law, "row_independent", "causal", "twice_differentiable")
    assert made.status == "fail", made.reason
    assert made.witness is not None
    assert said in str(made.witness.cause)


def test_modes_that_differ_undeclared_are_asked_for() -> None:
    assert "mode_dependent" in judged(Layer, "modes", rate=0.4).reason
    assert judged(Layer, "modes", "mode_dependent").status == "fail"


def test_a_driver_that_names_gradients_otherwise_proves_nothing() -> None:
    made = judged(ForgetsFactor, "gradients", driver=Misnames)
    assert made.status == "unknown"
    assert "tells gradients of W, b; there are input 0, parameter W, parameter b" in made.reason


class Shifted(Layer):
    """A bias that is added after the nonlinearity."""

    def forward(self, x: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        y, saved = super().forward(x, rng)
        return y + 0.1 * self.weights["b"], saved


def stated(target: type, law: str, **more: Any) -> Verdict:
    example = Example(more=more)
    subject = Subject(kind="layer", label=target.__name__, reference="", target=target, example=example, driver=Driver())
    return verdict(Trial(subject, find_law(f"layer.{law}")))


def formula(x: Any, state: Any) -> Any:
    return np.tanh(np.einsum("nti,io->nto", x, state["W"]) + state["b"])


def test_a_reference_tells_another_formula() -> None:
    assert stated(Layer, "reference", reference=formula).status == "pass"
    made = stated(Shifted, "reference", reference=formula)
    assert made.status == "fail"
    assert "by the reference" in made.reason


@pytest.mark.parametrize("relation", [equivariant_under(permuted(1)), within(-1.0, 1.0)])
def test_relations_are_held(relation: Any) -> None:
    assert stated(Layer, "relations", relations=(relation,)).status == "pass"
    assert stated(SeesTheFuture if "order" in relation.name else Shifted, "relations", relations=(relation,)).status == "fail"


def test_what_is_stated_without_need_is_not_applicable() -> None:
    assert stated(Layer, "reference").status == "not applicable"
    assert "invariant_under(permuted(1))" in stated(Layer, "relations", relations=("symmetric",)).reason
