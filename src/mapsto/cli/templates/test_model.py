"""The laws of layers, which a model owes too, and what this one says of itself: it can learn."""

from __future__ import annotations

from collections.abc import Callable

import torch

import mapsto
from mapsto.testing import laws_of

MyName = mapsto.registry.get("model", "my_name")


# Each law that its kind owes is a test of its own: `mapsto check model/my_name` prints them.
@laws_of("model/my_name")
def test_laws(law: Callable[[], None]) -> None:
    law()


def test_shapes_and_gradients() -> None:
    model = MyName(3, 5, hidden=8, layers=1)
    y = model(torch.randn(7, 3))
    assert y.shape == (7, 5)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_records_do_not_see_each_other() -> None:
    model, x = MyName(3, 2).eval(), torch.randn(6, 3)
    torch.testing.assert_close(model(x)[2:4], model(x[2:4]))


def test_it_learns_what_no_linear_model_can() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    target = torch.tensor([0, 1, 1, 0])
    program = mapsto.build_program(mapsto.use("my_name", inputs=2, outputs=2), optimizer=mapsto.use("adamw", lr=1e-2))
    for _ in range(300):
        program.step({"input": x, "target": target})
    assert program.model(x).argmax(-1).tolist() == target.tolist()
