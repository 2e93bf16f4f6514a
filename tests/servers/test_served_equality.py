"""Servers and workers in step are one process: gradients, weights, averages, with unequal weights and empty micro-shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import server_toys as toys
import torch

from mapsto import Spec, use
from mapsto.torch.servers.mesh import Servers
from mapsto.torch.servers.program import ServedProgram

pytestmark = pytest.mark.usefixtures("pool")
OFFERS = {"total_steps": 9, "steps_per_epoch": 5, "seed": 0}


@contextmanager
def served(spec: Spec, **mesh: Any) -> Iterator[ServedProgram]:
    """The program of a spec on servers, ended at the end."""
    program = Servers(**{**spec.mesh.args, **mesh}).program(spec, OFFERS)
    try:
        yield program
    finally:
        program.close()


CASES: dict[str, tuple[dict[str, Any], int, float]] = {
    "gradient": ({"optimizer": use("sgd", lr=1.0)}, 1, 1e-12),
    "sgd": ({}, 6, 1e-12),  # the fifth batch has 3 records for 4 micro-shards, the sixth is of another epoch
    "adamw": (
        {
            "optimizer": use("adamw", lr=1e-2),
            "schedule": use("warmup", steps=0.3),
            "middleware": [use("clip_norm", max_norm=0.3), use("accumulate", steps=2), use("ema", decay=0.9)],
        },
        6,
        1e-9,
    ),
    "groups": (
        {
            "optimizer": use("adamw", lr=1e-2),
            "middleware": ["no_weight_decay", use("freeze", patterns=["5.bias"]), use(toys.Halved), use("clip_value", value=0.1)],
        },
        4,
        1e-9,
    ),
    "unused": ({"model": use(toys.Unused), "optimizer": use("adamw", lr=1e-2)}, 6, 1e-9),
    "skipped": ({"middleware": [use("nonfinite", action="skip")], "optimizer": use("adamw", lr=1e-2)}, 4, 1e-9),
}


@pytest.mark.parametrize("name", CASES)
def test_the_weights_are_those_of_one_process(name: str) -> None:
    changes, steps, within = CASES[name]
    spec = toys.spec(**changes)
    one = toys.one_process(spec, steps)
    with served(spec) as program:
        found = [program.step() for _ in range(steps)]
        assert program.position == steps
        tree = program.state_tree()
        assert toys.apart(one.weights(), program.weights()) <= within
        assert program.rates() == pytest.approx(one.rates(), rel=1e-12)
    assert [m["staleness/max"] for m in found] == [0] * steps
    _same_tree(one.state_tree(), tree, within)
    before = toys.one_process(spec, 0).weights()
    assert toys.apart(before, one.weights()) > 1e-3  # the control: something was trained


def _same_tree(one: Any, other: Any, within: float, path: str = "") -> None:
    """The same form, names and plain values; tensors alike."""
    if isinstance(one, dict):
        assert set(one) == set(other), path
        for key in one:
            _same_tree(one[key], other[key], within, f"{path}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            _same_tree(a, b, within, f"{path}.{i}")
    elif isinstance(one, torch.Tensor):
        assert one.shape == other.shape, path
        assert one.dtype == other.dtype, path
        torch.testing.assert_close(other, one, rtol=max(within, 1e-9), atol=1e-14)
    else:
        assert one == other or one == pytest.approx(other), path


@pytest.mark.parametrize("optimizer", [use("sgd", lr=0.05, fused=False), use("adagrad", lr=0.05)], ids=["sgd", "adagrad"])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_tables_are_trained_as_in_one_process_and_only_touched_rows_travel(optimizer: Any) -> None:
    spec = toys.spec(model=use(toys.WideNet), task=use(toys.wide), optimizer=optimizer)
    one = toys.one_process(spec, 6)
    with served(spec) as program:
        metrics = [program.step() for _ in range(6)]
        assert toys.apart(one.weights(), program.weights()) <= 1e-12
        shards = program.layout.shards
    assert sum(1 for rows in shards if rows["items.weight"]) == 2, "the large table is split by rows"
    for step, found in enumerate(metrics):
        assert found["bytes/pushed"] == _rows_touched(spec, step, 4) * (5 * 8 + 8) + _dense_bytes(step)
    dense = 8 * 5 * 280 * 3  # what three workers would push of the tables if whole gradients travelled
    assert max(m["bytes/pushed"] for m in metrics) < dense / 2


def _blocks(spec: Spec, step: int) -> list[dict[str, np.ndarray]]:
    """What each of the three workers reads: micro-shard 0, micro-shard 1, micro-shards 2 and 3."""
    from mapsto.torch.servers.blueprint import Blueprint

    reader = Blueprint.of(spec, 4, OFFERS).train_reader()
    parts = [reader.batch(step, shard, 4) for shard in range(4)]
    joined = {n: np.concatenate([parts[2][n], parts[3][n]]) for n in parts[2]}
    return [parts[0], parts[1], joined]


def _rows_touched(spec: Spec, step: int, shards: int) -> int:
    """Distinct rows with a gradient, of all workers and tables, counted by hand; padding has none."""
    count = 0
    for batch in _blocks(spec, step):
        ids = set(np.unique(batch["ids"])) - {0}
        items = set(np.unique(batch["item"])) | set(np.unique((batch["item"] * 7 + 1) % 200))
        count += 2 * len(ids) + len(items)
    return count


def _dense_bytes(step: int) -> int:
    """The head's gradient (5 x 3 weights, 3 biases) of every worker that has a record."""
    working = 3 if step != 4 else 2  # of 3 records in 4 micro-shards the first gets none
    return 8 * 18 * working
