"""The mappings of the wing keep the laws of all wings and its own, and its drivers let planted bugs be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import mapsto
from mapsto.testing import judge_law, laws_of

from .wing.framework import Array
from .wing.layers import Dense, batches


# Each law that its kind owes is a test of its own: `mapsto check my_name/layer/dense` prints them.
@laws_of("my_name/layer/dense", "my_name/schedule/halving")
def test_laws(law: Callable[[], None]) -> None:
    law()


class ForgetsFactor(Dense):
    def backward(self, kept: Any, gradient: Array) -> tuple[Array, dict[str, Array]]:
        of_input, of_weights = super().backward(kept, gradient)
        return of_input, {**of_weights, "W": 2 * of_weights["W"]}


class MixesRecords(Dense):
    def forward(self, x: Array, rng: Any) -> tuple[Array, Any]:
        return super().forward(x - x.mean(0, keepdims=True), rng)


@pytest.mark.parametrize(("target", "law"), [(ForgetsFactor, "layer.gradients"), (MixesRecords, "layer.row_independence")])
def test_a_planted_bug_is_caught(target: type, law: str) -> None:
    mapsto.example(target, args={"inputs": 4, "outputs": 3}, inputs=batches, tags=("row_independent",))
    assert judge_law(target, law).status == "fail"
