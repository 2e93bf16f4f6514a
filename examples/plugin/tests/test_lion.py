"""Lion against its formula, computed by hand in float64."""

from __future__ import annotations

import pytest
import torch

import mapsto

Lion = mapsto.registry.get("optimizer", "lion")


def test_it_is_the_formula() -> None:
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = Lion([w], lr=0.1, betas=(0.8, 0.6), weight_decay=0.5)
    expected, momentum = w.detach().clone(), torch.zeros(3, dtype=torch.float64)
    for gradient in torch.tensor([[3.0, -1.0, 0.2], [-9.0, 0.5, 0.2], [0.1, 0.1, -4.0]], dtype=torch.float64):
        w.grad = gradient.clone()
        optimizer.step()
        expected = expected - 0.1 * (torch.sign(0.8 * momentum + 0.2 * gradient) + 0.5 * expected)
        momentum = 0.6 * momentum + 0.4 * gradient
        torch.testing.assert_close(w.detach(), expected, rtol=1e-14, atol=1e-14)


def test_a_parameter_without_gradient_stays() -> None:
    w = torch.nn.Parameter(torch.ones(2))
    Lion([w], lr=1.0, weight_decay=1.0).step()
    assert w.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"betas": (1.0, 0.9)}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        Lion([torch.nn.Parameter(torch.ones(1))], **options)
