"""What an optimizer owes: its formula, and a state that goes on bitwise where it was saved."""

from __future__ import annotations

import pytest
import torch

import mapsto

MyName = mapsto.registry.get("optimizer", "my_name")


def test_it_is_the_formula() -> None:
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = MyName([w], lr=0.1, beta=0.5, weight_decay=0.2)
    expected, momentum = w.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for gradient in (torch.tensor([3.0, -1.0]), torch.tensor([-9.0, 0.5])):
        w.grad = gradient.double()
        optimizer.step()
        momentum = 0.5 * momentum + 0.5 * gradient
        expected = expected * (1 - 0.1 * 0.2) - 0.1 * momentum.sign()
        torch.testing.assert_close(w.detach(), expected)


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(ValueError, match="beta"):
        MyName([torch.nn.Parameter(torch.zeros(1))], beta=1.5)


def program() -> mapsto.torch.Program:
    return mapsto.build_program(torch.nn.Linear(3, 1), "regression", mapsto.use("my_name", lr=0.01), seed=1, device="cpu")


def weights(program: mapsto.torch.Program) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in program.model.parameters()])


def test_it_goes_on_bitwise_where_it_was_saved() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(8, 4, generator=generator) for _ in range(6)]
    batches = [{"input": x[:, :3], "target": x[:, 3:]} for x in drawn]
    whole, first, second = program(), program(), program()
    first.restore(whole.state_tree())  # the same weights to begin with
    for batch in batches:
        whole.step(batch)
    for batch in batches[:3]:
        first.step(batch)
    second.restore(first.state_tree())
    for batch in batches[3:]:
        second.step(batch)
    assert torch.equal(weights(whole), weights(second))
    assert not torch.equal(weights(whole), weights(first))
