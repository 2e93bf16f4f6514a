"""What a loss owes: its formula, right gradients, and totals and weights that add up over parts of a batch."""

from __future__ import annotations

import torch

import mapsto

my_name = mapsto.registry.get("loss", "my_name")


def pair(records: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, records, 3, dtype=torch.float64, generator=generator)
    return prediction, target


def test_it_is_the_formula() -> None:
    prediction, target = pair()
    total, weight = my_name(prediction, target, scale=0.5)
    torch.testing.assert_close(total, torch.log(torch.cosh((prediction - target) / 0.5)).sum())
    assert weight == 21


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    prediction, target = pair()
    total, weight = my_name(prediction, target)
    parts = [my_name(prediction[part], target[part]) for part in (slice(0, 2), slice(2, 7))]
    torch.testing.assert_close(sum(t for t, _ in parts), total)
    assert sum(w for _, w in parts) == weight
    assert not torch.isclose(sum(t / w for t, w in parts) / 2, total / weight)  # a mean of means is something else


def test_gradients_are_right_and_large_errors_stay_finite() -> None:
    prediction, target = pair()
    assert torch.autograd.gradcheck(lambda p: my_name(p, target)[0], (prediction.requires_grad_(),))
    assert torch.isfinite(my_name(torch.tensor([1e6]), torch.tensor([0.0]))[0])
