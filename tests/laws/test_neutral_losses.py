"""The laws of losses judge functions of NumPy arrays, which a driver differentiates by complex steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mapsto.core.laws import Example, Subject, Trial, Verdict, find_law, verdict
from mapsto.core.random import derive
from mapsto.laws.compare import cast
from mapsto.laws.drivers import LossValue

IGNORED = -1


def cross_entropy(logits: Any, target: Any, *, reduction: str = "none", ignore_index: int = IGNORED) -> Any:
    """Logits [n, c], class numbers [n]; analytic, so that a complex step differentiates it."""
    top = logits[np.arange(len(logits))[:, None], np.argmax(logits.real, 1)[:, None]] if len(logits) else logits[:, :1]
    log_p = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    kept = target != ignore_index
    losses = -log_p[np.arange(len(logits)), np.where(kept, target, 0)] * kept
    return reduced(losses, max(int(kept.sum()), 1), reduction)


def reduced(losses: Any, count: int, reduction: str) -> Any:
    return losses if reduction == "none" else losses.sum() / (count if reduction == "mean" else 1)


def counts_ignored(logits: Any, target: Any, *, reduction: str = "none", ignore_index: int = IGNORED) -> Any:
    return reduced(cross_entropy(logits, target, ignore_index=ignore_index), len(target), reduction)


def overflows(logits: Any, target: Any) -> Any:
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return -np.log(p[np.arange(len(logits)), target])


def misaligned(logits: Any, target: Any) -> Any:
    return cross_entropy(logits, target) * (1 + np.arange(len(target)))


def nothing_is_nan(logits: Any, target: Any, *, ignore_index: int = IGNORED) -> Any:
    return cross_entropy(logits, target, reduction="sum", ignore_index=ignore_index) / np.float64(
        (target != ignore_index).sum()
    )


def mean(logits: Any, target: Any) -> Any:
    return cross_entropy(logits, target, reduction="mean")


class Driver:
    """Losses as the laws see them, in NumPy."""

    def settle(self, trial: Trial) -> Example:
        more = {"fixed": (1,), "axes": 0, "domain": "real", **trial.example.more}
        trial.subject = replace(trial.subject, example=replace(trial.example, more=more))
        return trial.example

    def build(self, trial: Trial, dtype: str = "float64", **options: Any) -> Callable[..., Any]:
        del dtype
        return lambda *given: trial.subject.target(*given, **{**trial.example.args, **options})

    def inputs(
        self, trial: Trial, size: int, *, stream: str = "inputs", dtype: str = "float64", make: Any = None
    ) -> tuple[Any, ...]:
        rng = np.random.default_rng(derive(trial.seed, stream, size))
        return (make or trial.example.inputs)(size, rng, dtype)

    def parameters(self, loss: Any) -> dict[str, Any]:
        return {}

    def look(
        self, trial: Trial, loss: Any, given: tuple[Any, ...], dtype: str = "float64", *, parameters: Any = None
    ) -> LossValue:
        logits, target = given
        with np.errstate(all="ignore"):
            if dtype != "float64":  # a step of 1e-30 is none there: the value alone is judged
                losses = np.asarray(loss(cast(logits, dtype).astype("float32"), target))
                gradients = {"input 0": np.zeros_like(logits)}
                return LossValue(
                    "unreduced", np.asarray(losses.sum(dtype="float64")), None, gradients, losses.astype("float64")
                )
            losses = np.asarray(loss(logits, target))
            gradient = np.zeros_like(logits)
            for at in np.ndindex(logits.shape):
                moved = logits.astype(complex)
                moved[at] += 1e-30j
                gradient[at] = np.sum(loss(moved, target)).imag / 1e-30
        form = "unreduced" if losses.ndim else "scalar"
        return LossValue(form, np.asarray(losses.sum()), None, {"input 0": gradient}, losses if losses.ndim else None)

    def weighed(self, loss: Any, weight: Any = None) -> Any:
        return loss

    def native(self, array: Any) -> Any:
        return array

    def no_kernel(self, error: Exception) -> bool:
        return False


def drawn(size: int, rng: np.random.Generator, dtype: str = "float64") -> tuple[Any, Any]:
    return rng.normal(size=(size, 5)).astype(dtype), rng.integers(5, size=size)


def judged(target: Any, law: str, **more: Any) -> Verdict:
    example = Example(inputs=drawn, more=more)
    subject = Subject(kind="loss", label=target.__name__, reference="", target=target, example=example, driver=Driver())
    return verdict(Trial(subject, find_law(f"loss.{law}")))


@pytest.mark.parametrize("law", ["additivity", "states_weight", "reductions", "degenerate", "extreme", "permutation"])
def test_a_right_one_keeps_them(law: str) -> None:
    made = judged(cross_entropy, law)
    assert made.status == "pass", made.reason


@pytest.mark.parametrize(
    ("target", "law", "said"),
    [
        (counts_ignored, "reductions", "the sum is 7 times the mean, and 5 (targets) are due"),
        (overflows, "extreme", "overflow"),
        (misaligned, "permutation", "index misalignment"),
        (nothing_is_nan, "degenerate", "a mean over nothing"),
        (mean, "states_weight", "a mean of means"),
    ],
)
def test_a_wrong_one_is_caught_with_its_cause(target: Any, law: str, said: str) -> None:
    made = judged(target, law)
    assert made.status == "fail", made.reason
    assert made.witness is not None
    assert said in f"{made.witness.cause} {made.reason} {made.witness.allowed}"


def test_bounds_are_held_around_a_minimum() -> None:
    best = {"minimum": lambda size, rng, dtype: (np.eye(5)[np.arange(size) % 5] * 50, np.arange(size) % 5)}
    assert judged(cross_entropy, "bounds", bounds=(0.0, None), **best).status == "pass"
    made = judged(cross_entropy, "bounds", bounds=(0.0, 1.0), **best)
    assert made.status == "fail"


class HasNoHalf(Driver):
    def look(
        self, trial: Trial, loss: Any, given: tuple[Any, ...], dtype: str = "float64", *, parameters: Any = None
    ) -> LossValue:
        if dtype == "bfloat16":
            trial.skip("it has no bfloat16")
        return super().look(trial, loss, given, dtype)


def test_dtypes_that_a_framework_has_not_are_left_out_and_the_others_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Driver", HasNoHalf)
    assert judged(cross_entropy, "extreme").status == "pass"
    assert judged(overflows, "extreme").status == "fail"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_numbers_are_rounded_as_a_framework_rounds_them(dtype: str) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(1 << 31, size=5000, dtype=np.uint32).view(np.float32)
    x = np.concatenate(
        [bits[np.isfinite(bits)], rng.normal(size=1000).astype("float32"), np.float32([1 + 2**-8, 1 + 3 * 2**-8])]
    )
    assert np.array_equal(cast(x, dtype), torch.from_numpy(x).to(getattr(torch, dtype)).double().numpy())


class Doubles(Driver):
    """A loss whose hand-written backward is twice what it should be."""

    def look(self, *args: Any, **options: Any) -> LossValue:
        made = super().look(*args, **options)
        return replace(made, gradients={k: 2 * g for k, g in made.gradients.items()})


def test_a_backward_that_is_no_derivative_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(cross_entropy, "gradients").status == "pass"
    monkeypatch.setitem(globals(), "Driver", Doubles)
    made = judged(cross_entropy, "gradients")
    assert made.status == "fail"
    assert "its gradient is 2 of what it should be" in str(made.witness and made.witness.cause)
