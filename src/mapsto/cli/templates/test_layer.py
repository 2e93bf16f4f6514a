"""The laws of layers, and what this one says of itself."""

from __future__ import annotations

from collections.abc import Callable

import torch

import mapsto
from mapsto.testing import laws_of

MyName = mapsto.registry.get("layer", "my_name")


# Each law that its kind owes is a test of its own: `mapsto check layer/my_name` prints them.
@laws_of("layer/my_name")
def test_laws(law: Callable[[], None]) -> None:
    law()


def test_it_starts_as_the_identity() -> None:
    x = torch.randn(5, 3)
    torch.testing.assert_close(MyName(3)(x), x, rtol=0, atol=0)
    assert not torch.equal(MyName(3, gate=1.0)(x), x)


def test_any_leading_shape() -> None:
    layer, x = MyName(3, gate=1.0), torch.randn(2, 4, 3)
    torch.testing.assert_close(layer(x).reshape(8, 3), layer(x.reshape(8, 3)))
