"""The laws of surgery judge changes of a model that is a dict of NumPy arrays and one number."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from mapsto.core.laws import Example, Subject, Trial, Verdict, find_law, verdict
from mapsto.core.random import generator

Model = dict[str, Any]


class Driver:
    def model(self, trial: Trial, dtype: str = "float32") -> Model:
        rng = generator(trial.seed, "model")
        return {"w": rng.standard_normal((4, 6)).astype(dtype), "v": rng.standard_normal((6, 2)).astype(dtype), "slope": 0.0}

    def inputs(self, trial: Trial, dtype: str = "float32") -> tuple[Any, ...]:
        return (generator(trial.seed, "inputs").standard_normal((3, 4)).astype(dtype),)

    def operate(self, surgery: Any, model: Any, seed: int) -> Any:
        return surgery(model)

    def is_model(self, result: Any) -> bool:
        return isinstance(result, dict)

    def copy(self, model: Model) -> Model:
        return copy.deepcopy(model)

    def anatomy(self, model: Model) -> dict[str, str]:
        return {n: f"{v.dtype}{v.shape}" if isinstance(v, np.ndarray) else repr(v) for n, v in model.items()}

    def state(self, model: Model) -> Model:
        return {n: v.copy() for n, v in model.items() if isinstance(v, np.ndarray)}

    def call(self, model: Model, given: tuple[Any, ...]) -> Any:
        hidden = given[0] @ model["w"] * model.get("scale", 1.0)
        return np.where(hidden > 0, hidden, model["slope"] * hidden) @ model["v"]

    def train(self, model: Model) -> None:
        for value in model.values():
            if isinstance(value, np.ndarray):
                value += 1

    def save(self, model: Model) -> Model:
        return self.state(model)

    def load(self, model: Model, saved: Model) -> None:
        model.update(copy.deepcopy(saved))


def leaky(model: Model, slope: float = 0.1) -> Model:
    model["slope"] = slope
    return model


def leaky_copy(model: Model, slope: float = 0.1) -> Model:
    return leaky(copy.deepcopy(model), slope)


def shallow_copy(model: Model, slope: float = 0.1) -> Model:
    return leaky(copy.copy(model), slope)


def by_no_name(model: Model, slope: float = 0.1) -> Model:
    return leaky(model, slope) if "relu" in model else model


def forgets_to_return(model: Model, slope: float = 0.1) -> None:
    leaky(model, slope)


def made_anew(model: Model, slope: float = 0.1) -> Model:
    return {**leaky(model, slope), "v": np.ones_like(model["v"])}


def scaled(model: Model) -> Model:
    """Columns of norm 1, and their norms beside them."""
    scale = np.sqrt((model["w"] ** 2).sum(0))
    return {**model, "w": model["w"] / scale, "scale": scale}


def scaled_beside(model: Model) -> Model:
    made = scaled(model)
    return {**made, "scale": made["scale"].tolist()}  # no array, so in no state


def leaky_always(model: Model, slope: float = 0.1) -> Model:
    return leaky(model, max(slope, 0.01))


def judged(target: Any, law: str) -> Verdict:
    example = Example(more={"neutral": {"slope": 0.0}})
    subject = Subject(kind="surgery", label=target.__name__, reference="", target=target, example=example, driver=Driver())
    return verdict(Trial(subject, find_law(f"surgery.{law}")))


@pytest.mark.parametrize(
    ("target", "law"),
    [
        (leaky, "something_happened"),
        (leaky_copy, "original"),
        (leaky, "kept_weights"),
        (scaled, "loadable"),
        (leaky, "neutral"),
    ],
)
def test_a_right_one_keeps_them(target: Any, law: str) -> None:
    made = judged(target, law)
    assert made.status == "pass", (made.status, made.reason)


@pytest.mark.parametrize(
    ("target", "law", "cause"),
    [
        (by_no_name, "something_happened", "no module matched"),
        (forgets_to_return, "something_happened", "a missing return"),
        (shallow_copy, "original", "the copy shares weights with the original"),
        (made_anew, "kept_weights", "a module was made anew"),
        (scaled_beside, "loadable", "something that the forward pass needs is not in the state"),
        (leaky_always, "neutral", None),
    ],
)
def test_a_wrong_one_is_caught_with_its_cause(target: Any, law: str, cause: str | None) -> None:
    made = judged(target, law)
    assert made.status == "fail", (made.status, made.reason)
    assert made.witness is not None
    assert made.witness.cause == cause or (cause is None and made.witness.cause != "the component raised")
