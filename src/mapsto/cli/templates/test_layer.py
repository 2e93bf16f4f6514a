"""What a layer owes: its formula, right gradients (against finite differences in float64), any leading shape."""

from __future__ import annotations

import torch

import mapsto

MyName = mapsto.registry.get("layer", "my_name")


def test_it_starts_as_the_identity() -> None:
    x = torch.randn(5, 3)
    torch.testing.assert_close(MyName(3)(x), x, rtol=0, atol=0)
    assert not torch.equal(MyName(3, gate=1.0)(x), x)


def test_gradients_are_right() -> None:
    layer = MyName(3, gate=0.5).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    parameters = tuple(layer.parameters())

    def function(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in layer.named_parameters()]
        y: torch.Tensor = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))
        return y

    assert torch.autograd.gradcheck(function, (x, *parameters))


def test_any_leading_shape() -> None:
    layer, x = MyName(3, gate=1.0), torch.randn(2, 4, 3)
    torch.testing.assert_close(layer(x).reshape(8, 3), layer(x.reshape(8, 3)))
