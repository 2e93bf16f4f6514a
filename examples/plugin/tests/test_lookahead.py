"""Lookahead against plain steps of the same optimizer, and against itself saved and restored."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mapsto
from mapsto import use


def program(*middleware: Any) -> mapsto.torch.Program:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1).double()
    return mapsto.build_program(model, "regression", use("sgd", lr=0.05, momentum=0.9), middleware=middleware, device="cpu")


def batches(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(count, 8, 4, dtype=torch.float64, generator=generator)
    return [{"input": x[:, :3], "target": x[:, 3:]} for x in drawn]


def weights(program: mapsto.torch.Program) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in program.model.parameters()])


def test_every_k_steps_the_weights_are_pulled_back() -> None:
    made, plain = program(use("lookahead", steps=3, pull=0.25)), program()
    start = weights(plain).clone()
    for batch in batches(3):
        made.step(batch)
        plain.step(batch)
    torch.testing.assert_close(weights(made), start + 0.25 * (weights(plain) - start), rtol=1e-14, atol=1e-14)
    assert not torch.allclose(weights(made), weights(plain))


def test_before_that_they_are_the_optimizers_own() -> None:
    made, plain = program(use("lookahead", steps=3)), program()
    for batch in batches(2):
        made.step(batch)
        plain.step(batch)
    assert torch.equal(weights(made), weights(plain))


def test_pulling_all_the_way_changes_nothing() -> None:
    made, plain = program(use("lookahead", steps=2, pull=1.0)), program()
    for batch in batches(7):
        made.step(batch)
        plain.step(batch)
    assert torch.equal(weights(made), weights(plain))


def test_evaluation_sees_the_slow_weights_and_gives_the_fast_ones_back() -> None:
    made, start = program(use("lookahead", steps=10)), program()
    given = batches(4)
    for batch in given:
        made.step(batch)
    fast = weights(made).clone()
    assert made.evaluate(given) == start.evaluate(given)  # the slow weights have not moved yet
    assert torch.equal(weights(made), fast)
    assert not torch.equal(fast, weights(start))


@pytest.mark.parametrize("at", range(8))
def test_it_goes_on_bitwise_where_it_was_saved(at: int) -> None:
    whole, first, second = (program(use("lookahead", steps=3)) for _ in range(3))
    given = batches(8)
    for batch in given:
        whole.step(batch)
    for batch in given[:at]:
        first.step(batch)
    second.restore(first.state_tree())
    for batch in given[at:]:
        second.step(batch)
    assert torch.equal(weights(whole), weights(second))
    assert whole.evaluate(given) == second.evaluate(given)


def test_two_that_swap_weights_for_evaluation_are_refused() -> None:
    with pytest.raises(mapsto.ComposeError, match=r"'lookahead' and 'ema' both provide 'averaged_weights'"):
        program("lookahead", "ema")


@pytest.mark.parametrize("options", [{"steps": 0}, {"pull": 0.0}, {"pull": 1.5}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(mapsto.SpecError, match="lookahead: wanted"):
        program(use("lookahead", **options))
