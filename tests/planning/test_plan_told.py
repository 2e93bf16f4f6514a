"""What a plan tells from what it saw before: later updates of an optimizer, and shardings that another world chose."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.planning.plan_cases import EXAMPLE, INJECTED, planned, spec

from mapsto.core.parts import use
from mapsto.torch.planning import shardings
from mapsto.torch.planning.dry_run import dry_run
from mapsto.torch.planning.shorter import same
from mapsto.torch.planning.updates import Updates

ONE = {"replicate": 1, "shard": 1, "tensor": 1, "pipeline": 1}


class Keeping(torch.optim.SGD):
    """It keeps, beside its state, a tensor for each of its steps."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        self.kept: list[torch.Tensor] = []

    def step(self, closure: Any = None) -> Any:
        self.kept.append(torch.zeros(64 * (1 + len(self.kept))))
        return super().step(closure)


def steps(optimizer: Any, monkeypatch: pytest.MonkeyPatch, told: bool, hook: bool = False) -> tuple[list[Any], int]:
    """Steps of 2, 4 and 6 records, and how many updates were carried out."""
    made = dataclasses.replace(spec(None), optimizer=optimizer)
    carried: list[int] = []
    with monkeypatch.context() as patch:
        if not told:
            patch.setattr(Updates, "ended", lambda _: None)
        with dry_run(made, ONE, 0, EXAMPLE, INJECTED) as run:
            if hook:
                run.program.state.optimizer.register_step_post_hook(lambda *_: None)
            own = run._updates._step
            run._updates._step = lambda *args: (carried.append(1), own(*args))[1]
            return [run.step(records) for records in (2, 4, 6)], len(carried)


@pytest.mark.parametrize(
    "optimizer",
    [use("adamw", lr=0.1), use("sgd", lr=0.1), use("sgd", lr=0.1, momentum=0.9), use("adamw", lr=0.1, foreach=True)],
    ids=["adamw", "sgd", "momentum", "foreach"],
)
def test_updates_after_the_first_are_told_as_they_would_be_carried_out(optimizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, carried = steps(optimizer, monkeypatch, told=True)
    wanted, control = steps(optimizer, monkeypatch, told=False)
    assert (carried, control) == (1, 3)
    assert all(same(one, other) for one, other in zip(found, wanted, strict=True))
    assert not same(found[0], wanted[1]), "another number of records is another step"


def test_an_update_that_keeps_more_than_state_or_has_hooks_is_carried_out_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found, carried = steps(use(Keeping, lr=0.1), monkeypatch, told=True)
    assert carried == 3
    _, second, third = (one.timeline.changes[:, 1].sum() for one in found)  # the first keeps gradients too
    assert third - second == 4 * 64, "each keeps 64 numbers more"
    assert steps(use("adamw", lr=0.1), monkeypatch, told=True, hook=True)[1] == 3


@pytest.mark.parametrize("axes", [{"tensor": 2}, {"tensor": 2, "shard": 2}, {"tensor": 2, "pipeline": 2}], ids=str)
def test_shardings_that_another_world_chose_give_the_same_plan(axes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = {**ONE, **axes}
    monkeypatch.setattr(shardings, "_CHOSEN", {})
    first = planned(mesh)
    chosen = dict(shardings._CHOSEN)
    assert chosen, "DTensor was asked"
    assert same(planned(mesh), first), "by what the first world chose"
    assert chosen == shardings._CHOSEN, "nothing was chosen anew"
    with monkeypatch.context() as patch:
        patch.setattr(shardings, "patches", lambda: iter(()))
        assert same(planned(mesh), first), "by DTensor's own choices"


def test_a_mesh_of_another_size_has_its_own_shardings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shardings, "_CHOSEN", {})
    two = planned({**ONE, "tensor": 2})
    known = len(shardings._CHOSEN)
    four = planned({**ONE, "tensor": 4})
    assert len(shardings._CHOSEN) > known
    assert four.held["parameters"] < two.held["parameters"]
