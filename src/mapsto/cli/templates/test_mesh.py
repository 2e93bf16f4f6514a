"""What a mesh owes: the same weights as one device computes on the whole batch, for any number of shards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import mapsto

MyName = mapsto.registry.get("mesh", "my_name")


def program(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    return mapsto.build_program(model, "regression", mapsto.use("sgd", lr=0.1, momentum=0.9), device="cpu")


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = (7, 7, 3)  # the last is smaller, as at the end of an epoch
    drawn = [torch.randn(n, 4, dtype=torch.float64, generator=generator) for n in sizes]
    return [{"input": x[:, :3], "target": x[:, 3:]} for x in drawn]


def trained(made: Any) -> torch.Tensor:
    for batch in batches():
        made.step(batch)
    return torch.cat([p.detach().flatten() for p in made.model.parameters()])


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_weights_do_not_depend_on_the_shards(shards: int) -> None:
    expected = trained(program())
    torch.testing.assert_close(trained(MyName(shards)(program())), expected, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(trained(program(seed=1)), expected)


def test_metrics_and_steps_are_those_of_one_device() -> None:
    plain, made = program(), MyName(3)(program())
    for batch in batches():
        expected, found = plain.fetch([plain.step(batch)]), made.fetch([made.step(batch)])
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-12)
    assert made.position == plain.position == 3


def test_no_shard_is_refused() -> None:
    with pytest.raises(ValueError, match="shards"):
        MyName(0)
