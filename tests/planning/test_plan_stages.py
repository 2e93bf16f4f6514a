"""Stages of a pipeline that are alike are stepped once, and what is told is what a step of every stage tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from mapsto import Spec, use
from mapsto.planning import plan as planning
from mapsto.torch.planning.dry_run import DryRun, dry_run
from mapsto.torch.planning.stages import Mail

WIDTH, BLOCKS = 32, 10
EXAMPLE = {"input": np.zeros((4, WIDTH), np.float32), "target": np.zeros(4, np.int64)}
INJECTED = {"total_steps": 10, "steps_per_epoch": 5, "seed": 0}


class Block(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * width), nn.Linear(2 * width, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Deep(nn.Module):
    """Equal blocks between two layers of their own; `split` makes each stage between the first and the last two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)
        self.blocks = nn.Sequential(*[Block() for _ in range(BLOCKS)])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.first(x)))


class Declared(Deep):
    def pipeline_plan(self) -> list[Any]:
        return [self.first, *self.blocks, self.head]


class Uneven(Deep):
    """The third stage has a wider block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks[5] = Block(2 * WIDTH)


class Hooked(Deep):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[5].register_forward_hook(lambda _, args, result: result + args[0].exp())


class HookedAlike(Deep):
    """Hooks of the same code, of which that of the third stage holds another number."""

    def __init__(self) -> None:
        super().__init__()
        for number, block in enumerate(self.blocks):
            block.register_forward_hook(self.hook(3 if number == 5 else 2))

    def hook(self, times: int) -> Any:
        return lambda _, args, result: result + sum(args[0].exp() for _ in range(times))


class Tied(Deep):
    """A parameter that two stages have, which is reduced between them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks[5].up.weight = self.blocks[3].up.weight


class Frozen(Deep):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[5].up.requires_grad_(False)


def planner(model: Any, **limits: Any) -> planning.Planner:
    spec = Spec(
        model=use(model), task="classification", optimizer=use("sgd", lr=0.1, momentum=0.9), device="cpu",
        data={"train": {"source": use("arrays", **EXAMPLE), "batch_size": 4}},
        mesh=use("ranks", split=["blocks.2", "blocks.4", "blocks.6", "blocks.8"]),
    )  # fmt: skip
    return planning.Planner(spec, EXAMPLE, 256, INJECTED, planning.Limits(**limits))


def axes(replicate: int = 2, tensor: int = 1) -> dict[str, int]:
    return {"pipeline": 5, "replicate": replicate, "shard": 1, "tensor": tensor}


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ranks that were stepped."""
    found: list[int] = []
    make: Callable[..., None] = DryRun.__init__

    def made(self: Any, program: Any, meter: Any, example: Any, rank: int, mail: Any) -> None:
        found.append(rank)
        make(self, program, meter, example, rank, mail)

    monkeypatch.setattr(DryRun, "__init__", made)
    return found


@pytest.mark.parametrize(
    ("model", "tensor", "stages"),
    [(Deep, 1, [0, 1, 4]), (Declared, 1, [0, 1, 4]), (Uneven, 1, [0, 1, 2, 4]), (Hooked, 1, [0, 1, 2, 4]),
     (HookedAlike, 1, [0, 1, 2, 4]), (Frozen, 1, [0, 1, 2, 4]), (Tied, 1, [0, 1, 2, 3, 4]), (Deep, 2, [0, 1, 4])],
)  # fmt: skip
def test_stages_that_are_alike_are_stepped_once_and_all_is_told_as_by_every_stage(
    model: Any, tensor: int, stages: list[int], stepped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = planner(model, memory=600_000).estimate(axes(tensor=tensor))
    assert [rank // (2 * tensor) for rank in stepped] == stages
    monkeypatch.setattr(Mail, "same", lambda *_: False)
    full = planner(model, memory=600_000).estimate(axes(tensor=tensor))
    assert len(full.stages) == 5
    assert short.to_data() == full.to_data()
    assert short.largest is not None
    assert short.measured is not None
    assert short.largest > 0
    assert (short.measured.passes, short.measured.records) == (5, 26), "256 records over 2 data ranks of 5 micro-batches"
    own = {one.rank: one for one in full.stages}
    assert all(own[one.rank] == one for one in short.stages), "what comes after a stage left out knows its inputs"


def test_the_pass_that_makes_a_schedule_ready_is_no_part_of_a_step() -> None:
    mail = Mail()
    for rank in (0, 2, 4, 6, 8):
        with dry_run(planner(Deep).spec, axes(), rank, EXAMPLE, INJECTED, mail) as run:
            first, second = run.step(13), run.step(13)
        assert first.traffic == second.traffic
        assert first.held == second.held
        assert abs(first.peak - second.peak) <= 0.01 * second.peak


def test_the_largest_micro_batch_is_that_of_ranks_that_ran_no_other() -> None:
    def peak(records: int) -> int:
        mail, found = Mail(), []
        for rank in (0, 2, 4, 6, 8):
            with dry_run(planner(Deep).spec, axes(), rank, EXAMPLE, INJECTED, mail) as run:
                found.append(run.step(records).peak)
        return max(found)

    limits = planning.Limits(memory=600_000)
    most = planner(Deep, memory=600_000).estimate(axes()).largest
    assert most is not None
    assert limits.usable is not None
    assert peak(most) <= limits.usable < peak(most + 1)
