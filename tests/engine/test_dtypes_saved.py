"""Whatever a program holds is saved bit by bit, or refused before the first step."""

from __future__ import annotations

import pytest
import torch
from runs import fit, trajectory
from torch import nn
from torch_runs import torch_spec

from mapsto.core.errors import CheckpointError
from mapsto.engine.run import Run
from mapsto.torch import wing

FLOATS = [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
OTHERS = [torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.bool]


class Holding(nn.Module):
    """A model with parameters that are complex, of no axis or of no element, and a buffer of each type."""

    def __init__(self, odd: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.turn = nn.Parameter(torch.tensor([1 + 2j, 0.5j, -1.0], dtype=torch.complex128))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        for dtype in [*FLOATS, *OTHERS]:
            self.register_buffer(f"some_{str(dtype).removeprefix('torch.')}", torch.arange(3).to(dtype))
            self.register_buffer(f"none_{str(dtype).removeprefix('torch.')}", torch.zeros((), dtype=dtype))
        if odd:
            self.register_buffer("sparse", torch.eye(3).to_sparse())

    def forward(self, x):
        return self.linear(x) * self.scale + (self.turn * self.turn.conj()).real.to(x.dtype) + self.empty.sum()


def spec(**changes):
    made = torch_spec(model={"use": "test_dtypes_saved:Holding"}, middleware=[], schedule=None, steps=6)
    return made.override(*(f"{k}={v}" for k, v in changes.items()))


def test_a_run_that_holds_every_type_goes_on_bitwise(tmp_path):
    fit(spec(), tmp_path / "whole")
    stop = [lambda e: e.run.ask_to_stop("enough") if e.name == "checkpoint" and e.step == 3 else None]
    fit(spec(), tmp_path / "run", observers=stop)
    run = Run.resume(tmp_path / "run")
    run.fit()
    model = run.program.model
    assert model.turn.dtype == torch.complex128
    assert run.program.optimizer.state[model.turn]["exp_avg"].dtype == torch.complex128  # of the optimizer too
    for name, tensor in Run.resume(tmp_path / "whole").program.model.state_dict().items():
        assert model.state_dict()[name].dtype == tensor.dtype
    one, other = (Run.resume(tmp_path / name).checkpoints for name in ("whole", "run"))
    trees = [c.load(c.find(6)).tree["program"] for c in (one, other)]
    for name in trees[0]["model"]:
        left, right = (tree["model"][name] for tree in trees)
        assert left.dtype == right.dtype
        assert torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8)), name


def test_what_no_file_can_hold_is_refused_before_the_first_step(tmp_path):
    told = []
    with pytest.raises(
        CheckpointError, match=r"no checkpoint could hold this program: program\.model\.sparse is a tensor of .*sparse"
    ):
        fit(spec(**{"model.odd": "true"}), tmp_path / "run", observers=[told.append])
    assert [event.name for event in told if event.name != "end"] == []
    assert wing.unsaved(torch.zeros(2, dtype=torch.complex128), True) is not None
    assert wing.unsaved(torch.zeros(2, dtype=torch.complex128), False) is None


def test_the_comparison_sees_a_bit(tmp_path):
    fit(torch_spec(steps=1, schedule=None), tmp_path / "a")
    fit(torch_spec(steps=1, schedule=None, seed=6), tmp_path / "b")
    assert trajectory(tmp_path / "a", 1, "torch") != trajectory(tmp_path / "b", 1, "torch")
