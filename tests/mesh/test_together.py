"""The table of what works together in docs/distributed.md is what was tried: `python tests/mesh/test_together.py` prints it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from company import on_ranks
from mesh_programs import Net, all_steps, steps

from mapsto import use
from mapsto.core.axes import AXES
from mapsto.core.errors import ComposeError
from mapsto.torch.mesh.together import REFUSALS, refuse

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
COLUMNS = ("replicate", "shard", "tensor", "pipeline")
BLOCKS = ["blocks.*"]
ROWS: dict[str, Any] = {
    "accumulate": use("accumulate", steps=2),
    "activation_checkpointing": use("activation_checkpointing", modules=BLOCKS),
    "clip_norm": use("clip_norm", max_norm=0.05),
    "clip_value": use("clip_value", value=0.01),
    "compile": use("compile", backend="aot_eager", modules=BLOCKS),
    "distillation": use("distillation", teacher=use(Net)),
    "ema": use("ema", decay=0.5),
    "freeze": use("freeze", patterns=["blocks.0.fc1"]),
    "gradient_noise": use("gradient_noise", eta=1e-3),
    "mixed_precision": use("mixed_precision"),
    "mixup": use("mixup", alpha=0.5),
    "no_weight_decay": use("no_weight_decay"),
    "nonfinite": use("nonfinite"),
    "param_groups": use("param_groups", rules=[{"match": ["head"], "lr": 0.01}]),
    "sam": use("sam", rho=0.1),
}
TURNS = "turns"
"""A step of several updates, tried in test_turns_on_ranks.py."""
TRIED = {frozenset(pair) for pair in (("replicate", "shard"), ("replicate", "tensor"), ("replicate", "pipeline"))} | {
    frozenset(pair) for pair in (("shard", "tensor"), ("tensor", "pipeline"))
}
"""Pairs of axes that tests of four ranks try: test_ranks.py, test_tensor.py and test_pipeline.py."""


def case(row: str) -> dict[str, Any]:
    low = row == "mixed_precision"
    options = {"options": {"dropout": 0.3}, "micro_shards": 2, "steps": 2, "dtype": "float32" if low else "float64"}
    rule = use("sgd", lr=0.1) if low else use("adamw", lr=1e-2)  # AdamW makes as much of a rounding error as of a gradient
    return {**options, "optimizer": rule, "middleware": [ROWS[row]]}


def refusal(axis: str, other: str) -> int | None:
    """The number of the reason for which two do not go together."""
    pairs = [{r.axis, r.other} for r in REFUSALS]
    return pairs.index({axis, other}) + 1 if {axis, other} in pairs else None


def cell(row: str, column: str) -> str:
    if row == column:
        return ""
    number = refusal(row, column)
    return "yes" if number is None else f"no ({number})"


def table() -> str:
    lines = [f"| | {' | '.join(f'`{c}`' for c in COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| `{row}` | {' | '.join(cell(row, c) for c in COLUMNS)} |" for row in (*COLUMNS, *ROWS, TURNS)]
    lines += ["", *(f"{i}. `{r.axis}` and `{r.other}`: {r.why}." for i, r in enumerate(REFUSALS, 1))]
    return "\n".join(lines)


def test_the_page_holds_the_table() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")


def test_every_refusal_is_one_of_the_table_and_names_both_sides() -> None:
    for found in REFUSALS:
        assert found.axis in AXES
        assert found.other in (*AXES, *ROWS, TURNS)
        sizes = {found.axis: 2, **({found.other: 2} if found.other in AXES else {})}
        with pytest.raises(ComposeError, match=f"mesh.{found.axis} and {found.other} do not go together: "):
            refuse(sizes, [found.other])
        refuse({**sizes, found.axis: 1}, [found.other])


def test_every_pair_of_axes_is_refused_or_tried() -> None:
    pairs = {frozenset((a, b)) for a in AXES for b in AXES if a != b}
    assert pairs == TRIED | {frozenset((r.axis, r.other)) for r in REFUSALS if r.other in AXES}


@cache
def company(column: str) -> list[dict[str, Any]]:
    cases = {row: {**case(row), "mesh": {column: 2}} for row in ROWS if refusal(row, column) is None}
    return on_ranks(2, all_steps, cases, limit=400)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("column", COLUMNS)
def test_what_the_table_says_works_does_what_one_process_does(column: str) -> None:
    for found in company(column):
        for row, got in found.items():
            wanted = steps(case(row))
            for name, weight in wanted["weights"].items():
                apart = np.abs(got["weights"][name] - weight).max() / np.abs(weight).max()
                assert apart < (2e-2 if row == "mixed_precision" else 1e-8), (row, name)


if __name__ == "__main__":
    print(table())
