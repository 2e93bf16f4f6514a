"""What a mesh owes: the same weights as one device computes on the whole batch, for any number of shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mapsto
from mapsto.data import Batches

MyName = mapsto.registry.get("mesh", "my_name")


def program(mesh: Any = None, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    middleware = [mapsto.use("clip_norm", max_norm=0.1), mapsto.use("accumulate", steps=2)]
    return mapsto.build_program(
        model, "regression", mapsto.use("sgd", lr=0.1, momentum=0.9), middleware=middleware, device="cpu", mesh=mesh
    )


def reader() -> Batches:
    x = np.random.default_rng(1).normal(size=(17, 4))
    return Batches({"input": x[:, :3], "target": x[:, 3:]}, batch_size=7)  # the last batch is smaller, as in every epoch


def trained(made: Any) -> tuple[torch.Tensor, list[float]]:
    losses = []
    with reader().stream(0, 3, **made.reader_args) as stream:
        for _, batch in stream:
            losses.append(made.fetch([made.step(batch)])["loss"])
    return torch.cat([p.detach().flatten() for p in made.model.parameters()]), losses


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_weights_and_metrics_do_not_depend_on_the_shards(shards: int) -> None:
    expected, losses = trained(program())
    made = program(MyName(shards))
    found, own = trained(made)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert own == pytest.approx(losses, rel=1e-12)
    assert made.position == 3
    assert not torch.allclose(trained(program(seed=1))[0], expected)


def test_no_shard_is_refused() -> None:
    with pytest.raises(ValueError, match="shards"):
        MyName(0)
