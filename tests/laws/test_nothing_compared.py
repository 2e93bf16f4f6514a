"""A law that compared nothing proves nothing: its verdict is unknown, wherever it looked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mapsto
from mapsto.core.laws import Law, Subject, Trial, verdict
from mapsto.laws.compare import close_to_oracle, same
from mapsto.testing import judge_law


def _judged(check: Callable[[Trial], None]) -> Any:
    law = Law(name="layer.idle", id="Z", kinds=("layer",), priority=2, statement="", why="", satisfy="", check=check)
    return verdict(Trial(Subject(kind="layer", label="idle", reference="", target=nn.Identity, wing="torch"), law))


NOTHING: dict[str, Any] = {
    "empty trees": {},
    "no gradient": {"gradient": None},
    "arrays without elements": {"output": np.zeros((0, 3))},
    "no number anywhere": {"output": np.full(3, np.nan), "gradient": {"input": np.full((2, 2), np.nan, np.float32)}},
}


@pytest.mark.parametrize("tree", NOTHING.values(), ids=NOTHING.keys())
def test_what_compares_nothing_is_unknown(tree: Any) -> None:
    for check in (
        lambda trial: same(trial, "outputs", tree, tree),
        lambda trial: close_to_oracle(trial, "outputs", tree, tree, tree),
    ):
        made = _judged(check)
        assert (made.status, made.reason) == ("unknown", "nothing was compared")
        assert not sum(made.counts.values())


@pytest.mark.parametrize("check", [lambda trial: None, lambda trial: trial.exercised("outputs", 0)], ids=["idle", "none"])
def test_a_law_that_returns_at_once_is_unknown(check: Callable[[Trial], None]) -> None:
    assert _judged(check).status == "unknown"


def test_what_compares_one_number_passes() -> None:
    tree = {"output": np.array([np.nan, 1.0]), "buffer": {}, "gradient": None}
    assert _judged(lambda trial: same(trial, "outputs", tree, tree)).counts == {"outputs": 1}
    assert _judged(lambda trial: close_to_oracle(trial, "outputs", tree, tree, tree)).status == "pass"


class Lost(nn.Module):
    """Gives no number at all."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_full(x.shape, float("nan"))


def test_a_layer_that_gives_no_number_does_not_pass() -> None:
    mapsto.example(Lost, inputs=lambda size, generator: (torch.randn(size, 4, generator=generator),))
    for law in ("layer.rerun", "layer.modes"):
        assert judge_law(Lost, law, kind="layer").status == "unknown", law
