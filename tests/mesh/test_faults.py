"""What goes wrong on one rank is known on all: a value that is not finite, an overflow, an error in a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from company import RankFailed, on_ranks
from mesh_programs import MODELS, Net, made, records

from mapsto import use
from mapsto.core.errors import MapstoError
from mapsto.data.reader import Batches

MESHES = [{"replicate": 2}, {"shard": 2}]


class Logs(Net):
    """Takes logarithms of what may be negative, in its own layer."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.log(x))


class Log(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, 1:2] > 90, torch.log(-x), x)


MODELS["logs"] = Logs


def bad_reader(at: int, value: float) -> Batches:
    """The record that stands `at` in the second batch holds the value."""
    data = records("net", "float32")
    order = Batches(data, 13, shuffle=True, seed=1).indices(1)
    data["input"][order[at], 1] = value
    return Batches(data, 13, shuffle=True, seed=1)


def trained(case: dict[str, Any], at: int, value: float) -> dict[str, Any]:
    """Two steps, the second of which is bad on the rank that has that record."""
    program, _ = made({"dtype": "float32", **case})
    window, before, said = [], {}, "nothing"
    with bad_reader(at, value).stream(0, 2, **program.reader_args) as stream:
        for _, batch in stream:
            before = program.weights()
            try:
                window.append(program.step(batch))
            except MapstoError as found:
                said = f"{type(found).__name__}: {found}"
    after = program.weights()
    same = all(np.array_equal(before[n], w) for n, w in after.items())
    return {"said": said, "same": same, "metrics": program.fetch(window[-1:]), "weights": after}


def all_trained(cases: list[tuple[dict[str, Any], int, float]]) -> list[dict[str, Any]]:
    return [trained(*case) for case in cases]


def test_a_value_that_is_not_finite_is_told_of_by_module_rank_and_step_on_all_ranks() -> None:
    case = {"model": "logs", "middleware": [use("nonfinite")]}
    skipping = {"middleware": [use("nonfinite", action="skip"), use("clip_norm", max_norm=1.0)]}
    cases = [({**c, "mesh": m}, 12, v) for m in MESHES for c, v in ((case, 99.0), (skipping, float("nan")), (skipping, 0.5))]
    for found in on_ranks(2, all_trained, cases):
        for at in (0, 3):
            named, skipped, good = found[at : at + 3]
            assert "step 1, rank 1, micro-batch 1: the loss (nan) is not finite" in named["said"]
            assert "'log' (Log): given float32[7, 6]" in named["said"]
            assert named["same"]
            assert skipped["same"]
            assert skipped["metrics"]["skipped"] == 1.0
            assert not good["same"]


def test_an_overflow_on_one_rank_skips_the_step_on_all() -> None:
    case = {"middleware": [use("mixed_precision", dtype="fp16", init_scale=1024.0)]}
    cases = [({**case, "mesh": m}, 12, v) for m in MESHES for v in (3e38, 0.5)]
    for found in on_ranks(2, all_trained, cases):
        for bad, good in (found[:2], found[2:]):
            assert bad["same"]
            assert bad["metrics"]["skipped"] == 1.0
            assert bad["metrics"]["loss_scale"] == 1024.0
            assert not good["same"]


def test_mixed_precision_on_ranks_is_that_of_one_process() -> None:
    cases = [({"middleware": [use("mixed_precision", dtype=d, init_scale=64.0)]}, 12, 0.5) for d in ("bf16", "fp16")]
    wanted = all_trained(cases)
    on_mesh = [({**case, "mesh": m}, at, v) for m in MESHES for case, at, v in cases]
    for found in on_ranks(2, all_trained, on_mesh):
        for got, want in zip(found, wanted * 2, strict=True):
            for name, weight in want["weights"].items():
                assert np.abs(got["weights"][name] - weight).max() < 2e-3, name  # half precision of other batch shapes


class Breaks(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x[:, 1] > 90).any()):
            raise ValueError("a record that this layer does not take")
        return super().forward(x)


MODELS["breaks"] = Breaks


def broken() -> None:
    program, _ = made({"dtype": "float32", "model": "breaks", "mesh": {"replicate": 2}})
    with bad_reader(12, 99.0).stream(0, 2, **program.reader_args) as stream:
        for _, batch in stream:
            program.step(batch)


def test_an_error_on_one_rank_ends_the_others_within_the_limit() -> None:
    with pytest.raises(RankFailed, match="a record that this layer does not take"):
        on_ranks(2, broken, limit=60)
