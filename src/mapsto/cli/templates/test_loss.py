"""The laws of losses, and the formula of this one."""

from __future__ import annotations

from collections.abc import Callable

import torch

import mapsto
from mapsto.testing import laws_of

my_name = mapsto.registry.get("loss", "my_name")


# Each law that its kind owes is a test of its own: `mapsto check loss/my_name` prints them.
@laws_of("loss/my_name")
def test_laws(law: Callable[[], None]) -> None:
    law()


def pair(records: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, records, 3, dtype=torch.float64, generator=generator)
    return prediction, target


def test_it_is_the_formula() -> None:
    prediction, target = pair()
    total, weight = my_name(prediction, target, scale=0.5)
    torch.testing.assert_close(total, torch.log(torch.cosh((prediction - target) / 0.5)).sum())
    assert weight == 21
