"""The laws of optimizers judge updates of NumPy arrays, driven without any framework."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from mapsto.core.laws import Example, Subject, Trial, Verdict, find_law, verdict
from mapsto.core.random import derive
from mapsto.laws.optimizer_problem import Problem


class Momentum:
    """v <- mu v + g, then w <- w - lr (v + decay w), for lists of arrays in groups."""

    def __init__(self, groups: list[dict[str, Any]], lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        self.groups = [{**defaults, **group} for group in groups]
        self.kept: dict[int, Any] = {}

    def update(self, parameters: list[Any], gradients: list[Any]) -> None:
        for group in self.groups:
            for i in group["numbers"]:
                if gradients[i] is not None:
                    self.one(parameters[i], gradients[i], i, group)

    def one(self, w: Any, g: Any, i: int, group: Mapping[str, Any]) -> None:
        v = self.kept[i] = group["momentum"] * self.kept.get(i, np.zeros_like(w)) + g
        w -= group["lr"] * (v + group["weight_decay"] * w)


class Uphill(Momentum):
    def one(self, w: Any, g: Any, i: int, group: Mapping[str, Any]) -> None:
        super().one(w, -g, i, group)


class Forgets(Momentum):
    """Its momentum is not in what it saves."""


class DriftsWithout(Momentum):
    def update(self, parameters: list[Any], gradients: list[Any]) -> None:
        super().update(parameters, [np.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)])


class FirstGroupsRate(Momentum):
    def one(self, w: Any, g: Any, i: int, group: Mapping[str, Any]) -> None:
        super().one(w, g, i, {**group, "lr": self.groups[0]["lr"]})


class Dampened(Momentum):
    def one(self, w: Any, g: Any, i: int, group: Mapping[str, Any]) -> None:
        super().one(w, 0.5 * g, i, group)


class Signs(Momentum):
    """By the sign of each part of the gradient."""

    def one(self, w: Any, g: Any, i: int, group: Mapping[str, Any]) -> None:
        w -= group["lr"] * (np.sign(g.real) + 1j * np.sign(g.imag) if np.iscomplexobj(g) else np.sign(g))


class SignsOfPairs(Momentum):
    def one(self, w: Any, g: Any, i: int, group: Mapping[str, Any]) -> None:
        w -= group["lr"] * g / np.abs(g)


class Compensated(Momentum):
    """What rounding takes away comes with the next update."""

    def one(self, w: Any, g: Any, i: int, group: Mapping[str, Any]) -> None:
        exact = w - group["lr"] * g + self.kept.get(i, 0.0)
        w[...] = bfloat16(exact)
        self.kept[i] = exact - w


def bfloat16(numbers: Any) -> Any:
    """The nearest numbers whose lower half is empty, ties to even."""
    bits = numbers.astype("float32").view("uint32")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype("uint32").view("float32")


def rule(w: Any, g: Any, t: int, memory: dict[str, Any], *, lr: float, momentum: float, weight_decay: float, **_: Any) -> Any:
    memory["v"] = momentum * memory.get("v", np.zeros_like(g)) + g
    return w - lr * (memory["v"] + weight_decay * w)


class Driven:
    def __init__(self, problem: Problem, held: list[Any], optimizer: Momentum) -> None:
        self.problem, self.held, self.optimizer = problem, held, optimizer
        self.low = False

    def parameters(self) -> list[Any]:
        return copy.deepcopy(self.held)

    def options(self) -> dict[str, Any]:
        return {k: v for k, v in self.optimizer.groups[0].items() if k != "numbers"}

    def set_rate(self, change: Callable[[float], float], *, first: bool = False) -> None:
        for group in self.optimizer.groups[: 1 if first else None]:
            group["lr"] = change(group["lr"])

    def update(self, t: int, without: Sequence[int] = ()) -> None:
        known = range(len(self.problem.shapes))
        gradients = [self.problem.gradient(t, i, p) if i in known else p * 0 for i, p in enumerate(self.held)]
        self.update_with([None if i in without else g for i, g in enumerate(gradients)])

    def update_with(self, gradients: Sequence[Any]) -> None:
        self.optimizer.update(
            self.held, [g if g is None else g.astype(p.dtype) for g, p in zip(gradients, self.held, strict=True)]
        )
        for p in self.held if self.low else ():
            p[...] = bfloat16(p)

    def state(self) -> dict[str, Any]:
        return {f"momentum {i}": v.copy() for i, v in self.optimizer.kept.items()}

    def state_of(self, number: int) -> dict[str, Any]:
        return {"momentum": self.optimizer.kept[number].copy()} if number in self.optimizer.kept else {}

    def has_state(self) -> bool:
        return bool(self.optimizer.kept)

    def save(self) -> Any:
        kept = {} if isinstance(self.optimizer, Forgets) else self.optimizer.kept
        return copy.deepcopy((self.optimizer.groups, kept))

    def load(self, saved: Any) -> None:
        self.optimizer.groups, self.optimizer.kept = copy.deepcopy(saved)


class Driver:
    def problem(self, trial: Trial) -> Problem:
        return Problem(derive(trial.seed, "problem"))

    def build(
        self, trial: Trial, *, dtype: str = "float64", parameters: Any = None, groups: Any = None, **options: Any
    ) -> Driven:
        problem = self.problem(trial)
        low = dtype == "bfloat16"
        start = problem.start() if parameters is None else parameters
        held = [bfloat16(p) if low else np.array(p, dtype=dtype) for p in start]
        chosen = [{"numbers": list(numbers), **own} for numbers, own in groups or [(range(len(held)), {})]]
        made = Driven(problem, held, trial.subject.target(chosen, **{**trial.example.args, **options}))
        made.low = low
        return made


def judged(target: type, law: str) -> Verdict:
    example = Example(
        tags=frozenset({"low_precision", "complex"}),
        more={"formula": rule, "variants": ({"weight_decay": 0.1}, {"momentum": 0.0})},
    )
    subject = Subject(kind="optimizer", label=target.__name__, reference="", target=target, example=example, driver=Driver())
    return verdict(Trial(subject, find_law(f"optimizer.{law}")))


@pytest.mark.parametrize("law", ["formula", "descends", "resume", "missing_gradients", "groups"])
def test_a_right_one_keeps_them(law: str) -> None:
    made = judged(Momentum, law)
    assert made.status == "pass", made.reason


@pytest.mark.parametrize(("target", "law"), [(Signs, "complex"), (Momentum, "complex"), (Compensated, "low_precision")])
def test_a_right_one_keeps_what_it_claims(target: type, law: str) -> None:
    made = judged(target, law)
    assert made.status == "pass", made.reason


@pytest.mark.parametrize(
    ("target", "law", "cause"),
    [
        (SignsOfPairs, "complex", "a square without a conjugate"),
        (Momentum, "low_precision", "updates below half a unit in the last place are rounded away"),
        (Dampened, "formula", "the first update is 0.5 of what it should be"),
        (Uphill, "descends", "a sign"),
        (Forgets, "resume", None),
        (DriftsWithout, "missing_gradients", "decay or momentum is applied without a gradient"),
        (FirstGroupsRate, "groups", "an option of one group is used for both"),
    ],
)
def test_a_wrong_one_is_caught_with_its_cause(target: type, law: str, cause: str | None) -> None:
    made = judged(target, law)
    assert made.status == "fail", made.reason
    assert made.witness is not None
    assert cause is None or cause in str(made.witness.cause)
