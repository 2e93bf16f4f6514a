"""PyTorch's activations, norms, losses and initialisers are the formulas, in float64."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.formulas import activations, initialisers, losses, norms

X = np.random.default_rng(0).normal(size=(6, 8, 4, 3)) * 3
EDGES = np.array([-800.0, -40.0, -3.0, -1e-9, 0.0, 1e-9, 0.5, 3.0, 40.0, 800.0])
P, T = (np.random.default_rng(i).normal(size=(7, 5)) * 2 for i in (1, 2))
INDEX = np.array([0, 4, 2, 2, 1, 0, 3])
ONES = np.where(T > 0, 1.0, 0.0)
SIGNS = np.where(np.arange(7) % 2, 1.0, -1.0)
W, B = np.linspace(0.5, 2.0, 8), np.linspace(-1.0, 1.0, 8)


def t(x: Any) -> Tensor:
    return torch.as_tensor(x)


ACTIVATIONS = {
    "relu": F.relu, "leaky_relu": F.leaky_relu, "elu": F.elu, "selu": F.selu, "sigmoid": torch.sigmoid, "softplus": F.softplus,
    "silu": F.silu, "mish": F.mish, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hard_sigmoid": F.hardsigmoid, "hard_swish": F.hardswish, "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1), "glu": lambda x: F.glu(x, -1),
}  # fmt: skip
LOSSES = {
    "cross_entropy": (lambda: losses.cross_entropy(P, INDEX, label_smoothing=0.1),
                      lambda: F.cross_entropy(t(P), t(INDEX), label_smoothing=0.1, reduction="none")),
    "binary_cross_entropy": (lambda: losses.binary_cross_entropy(P * 50, ONES),
                             lambda: F.binary_cross_entropy_with_logits(t(P * 50), t(ONES), reduction="none")),
    "squared_error": (lambda: losses.squared_error(P, T), lambda: F.mse_loss(t(P), t(T), reduction="none")),
    "absolute_error": (lambda: losses.absolute_error(P, T), lambda: F.l1_loss(t(P), t(T), reduction="none")),
    "huber": (lambda: losses.huber(P, T, delta=0.7), lambda: F.huber_loss(t(P), t(T), delta=0.7, reduction="none")),
    "gaussian": (lambda: losses.gaussian(P, T, P**2), lambda: F.gaussian_nll_loss(t(P), t(T), t(P**2), reduction="none")),
    "poisson": (lambda: losses.poisson(P, ONES), lambda: F.poisson_nll_loss(t(P), t(ONES), reduction="none")),
    "divergence": (lambda: losses.divergence(P, ONES), lambda: F.kl_div(t(P), t(ONES), reduction="none")),
    "hinge": (lambda: losses.hinge(P, T), lambda: F.relu(1 - t(P) * t(T))),
    "cosine": (lambda: losses.cosine(P, T, SIGNS, margin=0.1),
               lambda: F.cosine_embedding_loss(t(P), t(T), t(SIGNS), margin=0.1, reduction="none")),
    "triplet": (lambda: losses.triplet(P, T, P[::-1]),
                lambda: F.triplet_margin_loss(t(P), t(T), t(P[::-1].copy()), reduction="none")),
    # From their definitions, by the framework's own logarithms.
    "quantile": (lambda: losses.quantile(P, T, q=0.2), lambda: 0.2 * F.relu(t(T) - t(P)) + 0.8 * F.relu(t(P) - t(T))),
    "focal": (lambda: losses.focal(P, INDEX, gamma=1.5),
              lambda: -(1 - t(P).softmax(1)).pow(1.5).mul(t(P).log_softmax(1)).gather(1, t(INDEX)[:, None])[:, 0]),
    "sigmoid_focal": (lambda: losses.sigmoid_focal(P, ONES),
                      lambda: torch.where(t(ONES) > 0, -0.25 * t(-P).sigmoid() ** 2 * F.logsigmoid(t(P)),
                                          -0.75 * t(P).sigmoid() ** 2 * F.logsigmoid(t(-P)))),
}  # fmt: skip
NORMS = {
    "layer_norm": (lambda: norms.layer_norm(X, axes=2), lambda: F.layer_norm(t(X), (4, 3))),
    "rms_norm": (lambda: norms.rms_norm(X, W[:3], eps=1e-3), lambda: F.rms_norm(t(X), (3,), t(W[:3]), 1e-3)),
    "batch_norm": (lambda: norms.batch_norm(X, W, B), lambda: F.batch_norm(t(X), None, None, t(W), t(B), True)),
    "group_norm": (lambda: norms.group_norm(X, 4, W, B), lambda: F.group_norm(t(X), 4, t(W), t(B))),
    "instance_norm": (lambda: norms.instance_norm(X), lambda: F.instance_norm(t(X))),
    "running": (lambda: norms.running(B, X.var((0, 2, 3), ddof=1)), lambda: _kept(t(X), t(B))),
}  # fmt: skip
INITIALISERS = {
    "glorot_uniform": (initialisers.glorot_uniform(300, 200, gain=2.0), lambda w: nn.init.xavier_uniform_(w, gain=2.0)),
    "glorot_normal": (initialisers.glorot_normal(300, 200), nn.init.xavier_normal_),
    "he_uniform": (initialisers.he_uniform(300), lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu")),
    "he_normal": (initialisers.he_normal(200),
                  lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu")),
    "lecun_normal": (initialisers.lecun_normal(300), lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear")),
    "torch_linear": (initialisers.torch_linear(300), lambda w: nn.Linear(300, 200).weight.detach()),
    "uniform": (initialisers.uniform(-0.2, 0.4), lambda w: nn.init.uniform_(w, -0.2, 0.4)),
    "normal": (initialisers.normal(0.3), lambda w: nn.init.normal_(w, std=0.3)),
    "truncated_normal": (initialisers.truncated_normal(0.3), lambda w: nn.init.trunc_normal_(w, std=0.3, a=-0.6, b=0.6)),
}  # fmt: skip


def _kept(x: Tensor, variance: Tensor) -> Tensor:
    kept = variance.clone()
    F.batch_norm(x, torch.zeros(8, dtype=torch.float64), kept, training=True)
    return kept


def _public(module: ModuleType) -> set[str]:
    return {n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__ and n[0] != "_"}


def _equal(got: Any, want: Tensor) -> None:
    assert np.asarray(got).shape == tuple(want.shape)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", sorted(_public(activations)))
def test_activations(name: str) -> None:
    formula = getattr(activations, name)
    with np.errstate(over="raise", invalid="raise"):
        _equal(formula(X[..., :2]), ACTIVATIONS[name](t(X[..., :2])))
        _equal(formula(EDGES), ACTIVATIONS[name](t(EDGES)))


@pytest.mark.parametrize("name", sorted(_public(losses)))
def test_losses(name: str) -> None:
    formula, native = LOSSES[name]
    _equal(formula(), native())


@pytest.mark.parametrize("name", sorted(_public(norms)))
def test_norms(name: str) -> None:
    formula, native = NORMS[name]
    _equal(formula(), native())


def test_an_axis_of_channels_may_be_the_last() -> None:
    for formula in (norms.batch_norm, lambda x, w, b, axis: norms.group_norm(x, 4, w, b, axis=axis)):
        moved = formula(np.moveaxis(X, 1, -1), W, B, axis=-1)
        np.testing.assert_allclose(np.moveaxis(moved, -1, 1), formula(X, W, B, axis=1), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(_public(initialisers) - {"fans"}))
def test_initialisers(name: str) -> None:
    """60,000 numbers: the variance of a sample is then within 3 % (five deviations, sqrt(2 / n) each)."""
    torch.manual_seed(0)
    wanted, draw = INITIALISERS[name]
    drawn = draw(torch.empty(200, 300)).double().numpy()
    assert abs(drawn.mean() - wanted.mean) < 5 * (wanted.variance / drawn.size) ** 0.5
    assert abs(drawn.var() / wanted.variance - 1) < 0.03
    assert wanted.low - 1e-6 <= drawn.min()
    assert drawn.max() <= wanted.high + 1e-6


def test_fans_in_either_layout() -> None:
    assert initialisers.fans((16, 8, 3, 5), last=False) == (8 * 15, 16 * 15)
    assert initialisers.fans((3, 5, 8, 16), last=True) == (8 * 15, 16 * 15)
    want = nn.init._calculate_fan_in_and_fan_out(torch.empty(16, 8, 3, 5))
    assert initialisers.fans((16, 8, 3, 5), last=False) == want
