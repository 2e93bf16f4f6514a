"""What an export owes: an artefact that computes what the model does, and a model that is left as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import mapsto

my_name = mapsto.registry.get("export", "my_name")


def test_the_artefact_computes_what_the_model_does(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(5, 3)
    path = my_name(model, path=str(tmp_path / "model.npz"))
    with np.load(path) as w:
        hidden = np.maximum(x.numpy() @ w["0.weight"].T + w["0.bias"], 0)
        found = hidden @ w["2.weight"].T + w["2.bias"]
    np.testing.assert_allclose(found, model(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    my_name(model, path=str(tmp_path / "model.npz"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.weight.requires_grad


def test_nothing_else_is_left_behind(tmp_path: Path) -> None:
    my_name(nn.Linear(3, 2), path=str(tmp_path / "model.npz"))
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]
