"""What a middleware owes: what it says it does, nothing else, and a state that goes on bitwise where it was saved."""

from __future__ import annotations

from typing import Any

import torch

import mapsto


def program(*middleware: Any) -> mapsto.torch.Program:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1).double()
    return mapsto.build_program(model, "regression", mapsto.use("sgd", lr=0.01), middleware=middleware, device="cpu")


def batches(*scales: float) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(scales), 8, 3, dtype=torch.float64, generator=generator)
    return [{"input": part, "target": torch.full((8, 1), scale).double()} for part, scale in zip(x, scales, strict=True)]


def weights(program: mapsto.torch.Program) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in program.model.parameters()])


def moved(program: mapsto.torch.Program, batch: dict[str, torch.Tensor]) -> float:
    """How far the weights move in one step."""
    before = weights(program)
    program.step(batch)
    return float((weights(program) - before).norm())


def test_a_spike_is_shrunk_to_the_stated_size() -> None:
    usual, spike = batches(1.0, 1e6)
    made = program(mapsto.use("my_name", factor=3.0))
    first = moved(made, usual)
    assert abs(moved(made, spike) / first - 3.0) < 1e-9
    plain = program()
    assert first == moved(plain, usual)
    assert moved(plain, spike) / first > 1000  # without it the spike goes through


def test_an_overflow_leaves_no_trace() -> None:
    made, plain = (program("my_name").middleware["my_name"] for _ in range(2))
    shrink, same = (middleware.update(lambda _, metrics: metrics) for middleware in (made, plain))
    for norm in (1.0, 3.0, float("inf"), 2.0):
        shrink(_Gradients(norm), {})
        if norm < float("inf"):
            same(_Gradients(norm), {})
    assert made.mean == plain.mean


class _Gradients:
    """A state with one gradient of this norm."""

    def __init__(self, norm: float) -> None:
        self.norm = norm

    def gradients(self) -> list[torch.Tensor]:
        return [torch.tensor([self.norm])]


def test_nothing_changes_while_gradients_are_usual() -> None:
    made, plain = program(mapsto.use("my_name", factor=1e9)), program()
    for batch in batches(1.0, 2.0, -1.0):
        made.step(batch)
        plain.step(batch)
    assert torch.equal(weights(made), weights(plain))


def test_it_goes_on_bitwise_where_it_was_saved() -> None:
    whole, first, second = (program(mapsto.use("my_name", factor=1.1)) for _ in range(3))
    given = batches(1.0, 5.0, -3.0, 40.0)
    for batch in given:
        whole.step(batch)
    for batch in given[:2]:
        first.step(batch)
    second.restore(first.state_tree())
    for batch in given[2:]:
        second.step(batch)
    assert torch.equal(weights(whole), weights(second))


def test_it_stands_outside_of_clipping() -> None:
    names = [p.name for p in program(mapsto.use("clip_norm", max_norm=1.0), "my_name").plan]
    assert names == ["my_name", "clip_norm"]
