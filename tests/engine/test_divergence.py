"""Two runs and where they first differ: in their options, a step, a mapping of it, and whether that is rounding."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mapsto import Run, use
from mapsto.core.errors import SpecError
from mapsto.engine.divergence import Divergence, check_runs, diverge
from mapsto.engine.laws.runs import usual


class Summing(nn.Module):
    """[n, 8] -> [n, 3]; its products are added in one order or the other, or one of them twice."""

    def __init__(self, how: str = "forward") -> None:
        super().__init__()
        self.embed, self.head, self.how = nn.Linear(8, 12), Added(12, 3, how), how

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(torch.tanh(self.embed(x)))
        return made


class Added(nn.Linear):
    def __init__(self, inner: int, outer: int, how: str) -> None:
        super().__init__(inner, outer)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        products = x[:, None, :] * self.weight
        total = torch.zeros_like(products[..., 0])
        for i in range(products.shape[-1])[:: -1 if self.how == "backward" else 1]:
            total = total + products[..., i]
        return total + self.bias * (1.001 if self.how == "wrong" else 1.0)


def trained(place: Path, name: str, how: str = "forward", **changes: Any) -> Path:
    parts = {"model": use(f"{__name__}:Summing", how=how), "middleware": (), **changes}
    spec = usual(parts.pop("seed", 0), **parts)
    Run(spec, place / name).fit()
    return place / name


def compared(place: Path, **other: Any) -> Divergence:
    return diverge(trained(place, "one"), trained(place, "other", **other), replay=True)


def test_the_same_twice_is_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert found.same
    assert found.cause is None
    assert found.equal_at == 6


def test_an_option_of_the_optimizer_parts_at_the_update(tmp_path: Path) -> None:
    found = compared(tmp_path, optimizer=use("adamw", lr=0.021))
    assert (found.step, found.differs_at) == (1, 1)
    assert {f.what for f in found.found} == {"an update"}
    assert "optimizer.lr" in str(found.cause)


def test_another_seed_parts_at_the_data(tmp_path: Path) -> None:
    found = compared(tmp_path, seed=1)
    assert found.found[0].what == "the batch"
    assert "seed" in str(found.cause)


@pytest.mark.parametrize(("how", "said"), [("backward", "rounding alone"), ("wrong", "a module (head) is where they part")])
def test_rounding_is_told_from_a_bug(tmp_path: Path, how: str, said: str) -> None:
    found = compared(tmp_path, how=how)
    assert found.step == 1
    first = found.found[0]
    assert (first.what, first.which) == ("a module", "head")
    assert said in str(found.cause)


def test_a_difference_that_begins_later_is_found_in_its_step(tmp_path: Path) -> None:
    """After step 3 the rate is another one: the checkpoints before are equal, and they are gone on from."""
    one = trained(tmp_path, "one", schedule=use("multi_step", milestones=[9]))
    other = trained(tmp_path, "other", schedule=use("multi_step", milestones=[3]))
    for run in (one, other):
        for step in (3, 5):  # as of a run that keeps few
            shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    found = diverge(one, other, replay=True)
    assert (found.equal_at, found.differs_at) == (2, 4)
    assert found.step == 3
    assert found.found[0].which.endswith("lr")


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    run = trained(tmp_path, "one")
    with pytest.raises(SpecError, match="is compared with itself"):
        check_runs((str(run), str(run)))
    with pytest.raises(SpecError, match="is no folder of a run"):
        check_runs((str(run), str(tmp_path)))


def test_the_command_tells_it_and_exits_3(tmp_path: Path) -> None:
    one, other = trained(tmp_path, "one"), trained(tmp_path, "other", optimizer=use("adamw", lr=0.021))
    command = [sys.executable, "-m", "mapsto", "diff", str(one), str(other), "--trust"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "optimizer.lr" in done.stdout
    assert "first checkpoint in which they differ: step 1" in done.stdout
