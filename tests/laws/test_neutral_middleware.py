"""The laws of middleware judge mappings over NumPy arrays, in a program that no framework has a part in."""

from __future__ import annotations

import copy
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from mapsto.core.compose import declared
from mapsto.core.laws import Example, Subject, Trial, Verdict, find_law, verdict
from mapsto.core.parts import build
from mapsto.core.random import generator
from mapsto.core.values import Part, use
from mapsto.laws.middleware_inputs import Interrupted, records


# -- a program of three mappings: grad, update, step -------------------------------------------------------------------
class State:
    def __init__(self, seed: int, dtype: str) -> None:
        rng = generator(seed, "init")
        self.weights = {n: rng.normal(0, 0.5, s).astype(dtype) for n, s in (("w", (8, 3)), ("b", (3,)))}
        self.speed = {n: np.zeros_like(w) for n, w in self.weights.items()}
        self.grads: dict[str, Any] = {}
        self.step, self.seed, self.training = 0, seed, True


class Program:
    """Softmax regression with noise on its inputs (unless plain), by momentum; the gradient is of the sum, over the weight."""

    def __init__(self, trial: Trial, items: Any, plain: bool, momentum: float, seed: int, evaluations: Any) -> None:
        self.trial, self.plain, self.momentum, self.evaluations = trial, plain, momentum, evaluations
        self.dtype = "float64" if plain else "float32"
        self.state = State(seed, self.dtype)
        made = [build(i, "middleware", path="middleware") if isinstance(i, Part) else i for i in items]
        self.middleware = {type(m).__name__: m for m in made}
        for name in ("grad", "update"):
            outer = getattr(self, f"base_{name}")
            for m in reversed(made):
                outer = getattr(m, name)(outer) if name in declared(m).wraps else outer
            setattr(self, name, outer)
        for m in made:
            if hasattr(m, "begin"):
                m.begin(self.state)

    def loss(self, batch: Any, noise: float) -> tuple[Any, Any]:
        if self.evaluations is not None:
            self.evaluations.note()
        x = batch["input"]
        x = x + noise * generator(self.state.seed, "step", self.state.step).standard_normal(x.shape).astype(self.dtype)
        logits = x @ self.state.weights["w"] + self.state.weights["b"]
        p = np.exp(logits - logits.max(1, keepdims=True))
        return x, p / p.sum(1, keepdims=True)

    def base_grad(self, state: State, batch: Any) -> Any:
        x, p = self.loss(batch, 0.0 if self.plain else 0.1)
        kept = batch["target"] >= 0
        x, p, target = x[kept], p[kept].copy(), batch["target"][kept]
        total = -np.log(p[np.arange(len(target)), target]).sum()
        p[np.arange(len(target)), target] -= 1
        weight = max(len(target), 1)
        state.grads = {"w": x.T @ p / weight, "b": p.sum(0) / weight}
        return {"loss": (total, len(target))}

    def base_update(self, state: State, metrics: Any) -> Any:
        rate = 0.1 if self.plain else 0.1 / (1 + state.step)
        for n, g in state.grads.items():
            state.speed[n] = self.momentum * state.speed[n] + g
            state.weights[n] = (state.weights[n] - rate * state.speed[n]).astype(self.dtype)
        return metrics

    @property
    def position(self) -> int:
        return self.state.step

    def batch(self, step: int, size: int) -> Any:
        found = records(self.trial, step, size)
        return {**found, "input": found["input"].astype(self.dtype)}

    def step(self, batch: Any) -> Any:
        metrics = self.update(self.state, self.grad(self.state, batch))
        self.state.step += 1
        return metrics

    def fetch(self, window: Any) -> dict[str, float]:
        last = window[-1]
        return {n: float(v[0] / max(v[1], 1)) if isinstance(v, tuple) else float(v) for n, v in last.items()}

    @contextmanager
    def evaluating(self) -> Any:
        with ExitStack() as stack:
            for m in self.middleware.values():
                if hasattr(m, "evaluation_weights"):
                    stack.enter_context(m.evaluation_weights(self.state))
            yield

    def evaluate(self, batches: Any) -> dict[str, float]:
        with self.evaluating():
            return {"mean": float(np.mean([self.loss(batch, 0.0)[1].max() for batch in batches]))}

    def state_tree(self) -> dict[str, Any]:
        own = {n: m.state_dict() for n, m in self.middleware.items() if hasattr(m, "state_dict")}
        return {"model": self.state.weights, "speed": self.state.speed, "step": self.state.step, "middleware": own}

    def restore(self, tree: Any) -> None:
        self.state.weights, self.state.speed, self.state.step = tree["model"], tree["speed"], tree["step"]
        for n, own in tree["middleware"].items():
            self.middleware[n].load_state_dict(own)

    def parameters(self) -> Any:
        return copy.deepcopy(self.state.weights)

    def evaluation_weights(self) -> Any:
        with self.evaluating():
            return self.parameters()

    def trained(self) -> Any:
        return copy.deepcopy({"weights": self.state.weights, "speed": self.state.speed})

    def snapshot(self) -> Any:
        return {"weights": self.parameters(), "training": self.state.training, "step": self.state.step}


class Watch:
    def __init__(self, where: str) -> None:
        self.where, self.seen, self.failing = where, list[Any](), False

    def grad(self, inner: Any) -> Any:
        def seen(state: State, batch: Any) -> Any:
            metrics = inner(state, batch)
            if self.where == "grad":
                self.seen.append(copy.deepcopy(state.grads))
            return metrics

        return seen

    def update(self, inner: Any) -> Any:
        def seen(state: State, metrics: Any) -> Any:
            if self.where == "update":
                self.seen.append(copy.deepcopy(state.grads))
            if self.failing:
                raise Interrupted
            return inner(state, metrics)

        return seen


class Accumulates:
    """Gradients and sums of three micro-batches, by weight."""

    def grad(self, inner: Any) -> Any:
        def outer(state: State, batch: Any) -> Any:
            found: dict[str, Any] = {"total": 0.0, "weight": 0, **dict.fromkeys(state.weights, 0.0)}
            for rows in np.array_split(np.arange(len(batch["target"])), 3):
                total, weight = inner(state, {n: v[rows] for n, v in batch.items()})["loss"]
                sums = {"total": total, "weight": weight, **{n: g * weight for n, g in state.grads.items()}}
                found = {n: found[n] + value for n, value in sums.items()}
            state.grads = {n: found[n] / max(found["weight"], 1) for n in state.weights}
            return {"loss": (found["total"], found["weight"])}

        return outer


class Driver:
    micro_batches, scaled = use(Accumulates), None

    def build(
        self, trial: Trial, items: Any, *, plain: bool = False, momentum: bool = False, seed: Any = None, **told: Any
    ) -> Any:
        first = trial.seed if seed is None else seed
        return Program(trial, items, plain, 0.9 * momentum, first, told.get("evaluations"))

    def watch(self, where: str) -> Watch:
        return Watch(where)

    def edited(self, trial: Trial, gradients: Any) -> Any:
        return dict(zip(gradients, trial.example.more["edits"](list(gradients.values())), strict=True))

    def arrays(self, tree: Any) -> Any:
        return tree


# -- middleware, right and wrong ---------------------------------------------------------------------------------------
def norm(grads: list[Any]) -> Any:
    return np.sqrt(sum((g.astype("float64") ** 2).sum() for g in grads))


def clipped(grads: list[Any], limit: float = 0.05) -> list[Any]:
    return [g * min(1.0, limit / norm(grads)) for g in grads]


class Clips:
    def __init__(self, limit: float = 0.05) -> None:
        self.limit = limit

    def edit(self, grads: list[Any]) -> list[Any]:
        return [g.astype(g.dtype) * np.asarray(min(1.0, self.limit / max(norm(grads), 1e-30)), g.dtype) for g in grads]

    def update(self, inner: Any) -> Any:
        def outer(state: State, metrics: Any) -> Any:
            said = {**metrics, "norm": norm(list(state.grads.values()))}
            state.grads = dict(zip(state.grads, self.edit(list(state.grads.values())), strict=True))
            return inner(state, said)

        return outer


class Rounds(Clips):
    def edit(self, grads: list[Any]) -> list[Any]:
        return [g.astype("float16").astype(g.dtype) for g in super().edit(grads)]


class ClipsEach(Clips):
    def edit(self, grads: list[Any]) -> list[Any]:
        return [clipped([g], self.limit)[0] for g in grads]


class ClipsParts(Clips):
    update = None  # type: ignore[assignment]

    def grad(self, inner: Any) -> Any:
        def outer(state: State, batch: Any) -> Any:
            metrics = inner(state, batch)
            state.grads = dict(zip(state.grads, self.edit(list(state.grads.values())), strict=True))
            return metrics

        return outer


class Clamps(Clips):
    def edit(self, grads: list[Any]) -> list[Any]:
        return [g.clip(-0.01, 0.01) for g in grads]


class DividesByDeviation(Clips):
    """By the deviation of records, of which there may be one."""

    def grad(self, inner: Any) -> Any:
        def outer(state: State, batch: Any) -> Any:
            with np.errstate(all="ignore"):
                scale = np.sqrt(((batch["input"] - batch["input"].mean(0)) ** 2).sum(0) / np.int64(len(batch["input"]) - 1))
                return inner(state, {**batch, "input": batch["input"] / scale})

        return outer


class Averages:
    decay = 0.5

    def begin(self, state: State) -> None:
        self.kept = copy.deepcopy(state.weights)

    def update(self, inner: Any) -> Any:
        def outer(state: State, metrics: Any) -> Any:
            found = inner(state, metrics)
            self.kept = {n: self.decay * a + (1 - self.decay) * state.weights[n] for n, a in self.kept.items()}
            return found

        return outer

    @contextmanager
    def evaluation_weights(self, state: State) -> Any:
        held, state.weights = state.weights, self.kept
        try:
            yield
        finally:
            state.weights = held

    def state_dict(self) -> Any:
        return {"kept": self.kept}

    def load_state_dict(self, tree: Any) -> None:
        self.kept = tree["kept"]


class AveragesAfresh(Averages):
    def load_state_dict(self, tree: Any) -> None:
        pass


class SwapsForGood(Averages):
    @contextmanager
    def evaluation_weights(self, state: State) -> Any:
        held, state.weights = state.weights, self.kept
        yield
        state.weights = held  # not where an exception passes


class Sharpens:
    """The gradient at weights that are a little further uphill."""

    def grad(self, inner: Any) -> Any:
        def outer(state: State, batch: Any) -> Any:
            inner(state, batch)
            held = state.weights
            state.weights = {n: (w + 0.05 * state.grads[n]).astype(w.dtype) for n, w in held.items()}
            return self.second(inner, state, batch, held)

        return outer

    def second(self, inner: Any, state: State, batch: Any, held: Any) -> Any:
        try:
            return inner(state, batch)
        finally:
            state.weights = held


class SharpensUnguarded(Sharpens):
    def second(self, inner: Any, state: State, batch: Any, held: Any) -> Any:
        metrics = inner(state, batch)
        state.weights = held
        return metrics


CLIPS = {"neutral": {"limit": 1e9}, "edits": clipped, "norm": "norm", "commutes": [use(Averages)]}


def judged(target: type, law: str, **more: Any) -> Verdict:
    subject = Subject(
        kind="middleware",
        label=target.__name__,
        reference="",
        target=target,
        example=Example(more={**(CLIPS if issubclass(target, Clips) else {}), **more}),
        driver=Driver(),
    )
    return verdict(Trial(subject, find_law(f"middleware.{law}")))


@pytest.mark.parametrize(
    ("target", "law"),
    [
        (Clips, "neutral"),
        (Clips, "accumulation"),
        (Clips, "true_gradients"),
        (Clips, "commuting"),
        (Clips, "small_batches"),
        (Averages, "resume"),
        (Averages, "evaluation_weights"),
        (Sharpens, "exceptions"),
        (Accumulates, "small_batches"),
    ],
)
def test_a_right_one_keeps_them(target: type, law: str) -> None:
    made = judged(target, law)
    assert made.status == "pass", made.reason


@pytest.mark.parametrize(
    ("target", "law", "cause"),
    [
        (Rounds, "neutral", "a side effect of the neutral setting"),
        (ClipsParts, "accumulation", "it acts on each micro-batch, where the whole batch is meant"),
        (ClipsEach, "true_gradients", None),
        (DividesByDeviation, "small_batches", None),
        (AveragesAfresh, "resume", None),
        (SwapsForGood, "evaluation_weights", "the weights for evaluation are not taken back"),
        (SharpensUnguarded, "exceptions", "it is not put back where an exception passes"),
    ],
)
def test_a_wrong_one_is_caught_with_its_cause(target: type, law: str, cause: str | None) -> None:
    made = judged(target, law)
    assert made.status == "fail", (made.status, made.reason)
    assert made.witness is not None
    assert made.witness.cause == cause or (cause is None and made.witness.cause != "the component raised")


def test_an_order_that_decides_is_caught() -> None:
    made = judged(Clips, "commuting", commutes=[use(Clamps)])
    assert made.status == "fail"
    assert made.witness is not None
    assert made.witness.cause == "the order decides"
