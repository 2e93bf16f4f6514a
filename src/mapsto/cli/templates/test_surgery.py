"""What a surgery owes: it changes what it says and leaves everything else, weights and their names, as it was."""

from __future__ import annotations

import torch
from torch import nn

import mapsto

my_name = mapsto.registry.get("surgery", "my_name")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 2))


def test_every_one_is_replaced() -> None:
    found = [type(m) for m in my_name(model(), slope=0.2).modules()]
    assert nn.ReLU not in found
    assert found.count(nn.LeakyReLU) == 2


def test_weights_keep_their_names_and_values() -> None:
    before, after = model().state_dict(), my_name(model()).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_slope_zero_is_what_was_there_before() -> None:
    x = torch.randn(16, 3)
    torch.testing.assert_close(my_name(model(), slope=0.0)(x), model()(x))
    assert not torch.allclose(my_name(model(), slope=0.5)(x), model()(x))


def test_a_model_that_is_one_itself() -> None:
    assert isinstance(my_name(nn.ReLU()), nn.LeakyReLU)
