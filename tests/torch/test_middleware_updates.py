"""Middleware of gradients and weights against closed forms in float64: clipping, noise, averages, SAM."""

from __future__ import annotations

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from programs import Net, batch, differing, program, run, snapshot
from torch import nn

from mapsto import CheckpointError, use
from mapsto.torch import build_program


class Quadratic(nn.Module):
    """w -> sum of a w^2 / 2 + b w, whose gradient is a w + b: the optimum of nothing, but known in closed form."""

    def __init__(self, start=(1.0, -2.0, 0.5), bias=(0.3,)) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.v = nn.Parameter(torch.tensor(bias, dtype=torch.float64))

    def forward(self, a):
        return (a * self.w.square()).sum() / 2 + self.v.square().sum()


A = torch.tensor([1.0, 3.0, 7.0], dtype=torch.float64)


def quadratic(*middleware, lr=0.1, optimizer=None, **options):
    return build_program(
        Quadratic,
        lambda model, data: (model(data["input"]), 1.0, None),
        optimizer or use("sgd", lr=lr),
        middleware=middleware,
        device="cpu",
        **options,
    )


def parameters(made):
    return {n: p.detach().numpy().copy() for n, p in made.model.named_parameters()}


def gradient(w):
    return {"w": A.numpy() * w["w"], "v": 2 * w["v"]}


# -- clipping ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.01, 1.0, 4.0, 1e6])
def test_clip_norm_against_numpy(max_norm, norm_type):
    made = quadratic(use("clip_norm", max_norm=max_norm, norm_type=norm_type))
    for _ in range(3):
        before = parameters(made)
        wanted = gradient(before)
        flat = np.concatenate([wanted["w"], wanted["v"]])
        norm = np.abs(flat).max() if math.isinf(norm_type) else (np.abs(flat) ** norm_type).sum() ** (1 / norm_type)
        metrics = made.fetch([made.step({"input": A})])
        assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-12)
        for name, value in parameters(made).items():
            expected = before[name] - 0.1 * wanted[name] * min(1.0, max_norm / norm)
            np.testing.assert_allclose(value, expected, rtol=1e-12, atol=0)


@pytest.mark.bits
def test_clipping_nothing_is_bitwise_nothing():
    bare, made = program(), program(use("clip_norm", max_norm=1e6), use("clip_value", value=1e6))
    run(bare), run(made)
    assert not differing(snapshot(bare)["model"], snapshot(made)["model"])


def test_clip_norm_leaves_what_is_not_finite_where_it_is():
    """One NaN must not make every gradient NaN: the guard could no longer say where it arose."""
    made = quadratic(use("clip_norm", max_norm=1.0))
    made.model.v.register_hook(lambda g: g * float("nan"))
    metrics = made.fetch([made.step({"input": A})])
    assert math.isnan(metrics["grad_norm"])
    after = parameters(made)
    assert np.isnan(after["v"]).all()
    assert np.isfinite(after["w"]).all()


def test_clip_value_against_numpy():
    made = quadratic(use("clip_value", value=0.7))
    before = parameters(made)
    made.step({"input": A})
    for name, value in parameters(made).items():
        np.testing.assert_allclose(value, before[name] - 0.1 * np.clip(gradient(before)[name], -0.7, 0.7), rtol=1e-14)


def test_gradients_of_several_dtypes_clip_together():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4, dtype=torch.bfloat16))

        def forward(self, x):
            return (self.a + self.b.float()).sum() * x

    made = build_program(
        Two,
        lambda m, b: (m(b["input"]), 1, None),
        use("sgd", lr=1.0),
        middleware=[use("clip_norm", max_norm=1.0)],
        device="cpu",
    )
    norm = made.fetch([made.step({"input": torch.tensor(3.0)})])["grad_norm"]
    assert norm == pytest.approx(3 * math.sqrt(8), rel=1e-3)
    assert torch.allclose(made.model.a, torch.full((4,), 1 - 1 / math.sqrt(8)), rtol=1e-3)


@pytest.mark.parametrize(
    "middleware",
    [
        [use("clip_norm", max_norm=0.1)],
        [use("clip_value", value=0.01)],
        [use("accumulate", steps=3)],
        [use("sam", rho=0.1)],
        [use("sam", rho=0.1, adaptive=True)],
        [use("nonfinite"), use("accumulate", steps=2), use("clip_norm", max_norm=0.1), use("ema", decay=0.5)],
    ],
    ids=lambda parts: "-".join(p.use for p in parts),
)
def test_sparse_gradients_are_the_dense_ones(middleware):
    """Rows that stand several times in a batch are one row of the gradient."""
    data = {"input": torch.tensor([1, 4, 1, 1, 2, 4]), "target": torch.tensor([0, 1, 2, 0, 1, 2])}
    made = [
        build_program(
            lambda sparse=sparse: nn.Embedding(6, 3, sparse=sparse).double(),
            optimizer=use(torch.optim.SGD, lr=0.5),
            middleware=middleware,
            device="cpu",
        )
        for sparse in (False, True)
    ]
    for program_ in made:
        for _ in range(3):
            program_.step(data)
    assert made[1].model.weight.grad.is_sparse
    torch.testing.assert_close(made[0].model.weight, made[1].model.weight, rtol=1e-12, atol=1e-14)


def test_complex_weights_are_guarded_clipped_and_scaled():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.full((8, 3), 1 + 2j))

        def forward(self, x):
            return (x.to(self.w.dtype) @ self.w).abs()

    made = program(
        use("nonfinite"), use("mixed_precision", dtype="fp16"), use("clip_norm", max_norm=0.1), model=Complex, optimizer="sgd"
    )
    found = made.fetch(run(made, 2))
    assert found["skipped"] == 0.0
    assert found["grad_norm"] > 0.1


# -- noise -------------------------------------------------------------------------------------------------------------
def noise_of(step, eta=0.3, gamma=0.55, size=200_000, seed=0):
    """The gradients of a model whose own gradient is zero."""
    made = build_program(
        lambda: nn.Linear(size, 1, bias=False),
        lambda model, b: (model.weight.sum() * 0.0, 1, None),
        use("sgd", lr=1.0),
        middleware=[use("gradient_noise", eta=eta, gamma=gamma)],
        seed=seed,
        device="cpu",
    )
    made.state.step = step
    before = made.model.weight.detach().clone()
    made.step({})
    return (before - made.model.weight.detach()).double().flatten()


@pytest.mark.parametrize("step", [0, 1, 50, 10_000])
def test_gradient_noise_has_the_stated_variance(step):
    drawn, variance = noise_of(step), 0.3 / (1 + step) ** 0.55
    n = drawn.numel()
    assert abs(float(drawn.var()) / variance - 1) < 5 * math.sqrt(2 / n)  # the variance's own deviation is sqrt(2 / n)
    assert abs(float(drawn.mean())) < 5 * math.sqrt(variance / n)


def test_gradient_noise_differs_by_step_and_seed_and_repeats():
    assert torch.equal(noise_of(3), noise_of(3))
    assert not torch.equal(noise_of(3, seed=1), noise_of(3))
    scaled = noise_of(4) * (5 / 4) ** 0.275
    assert not torch.allclose(scaled, noise_of(3), atol=1e-3)


# -- averages ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("warmup", "every"), [(0, 1), (10, 1), (0, 3), (10, 2)])
def test_ema_against_the_closed_formula(warmup, every):
    made = quadratic(use("ema", decay=0.9, warmup=warmup, every=every), lr=0.05)
    ema = made.middleware["ema"]
    trajectory = [parameters(made)]
    for _ in range(12):
        made.step({"input": A})
        trajectory.append(parameters(made))
    averaged = trajectory[every::every]
    decays = [min(0.9, (1 + t) / (warmup + t)) if warmup else 0.9 for t in range(len(averaged))]
    for name, got in ema.weights().items():
        # a_n = w_0 prod d + sum_t (1 - d_t) w_t prod_{s > t} d_s
        wanted = trajectory[0][name] * math.prod(decays)
        for t, weights in enumerate(averaged):
            wanted = wanted + (1 - decays[t]) * math.prod(decays[t + 1 :]) * weights[name]
        np.testing.assert_allclose(got, wanted, rtol=1e-13)
        assert not np.allclose(got, trajectory[-1][name], rtol=1e-3), "an average that is the last value proves nothing"


def test_evaluation_sees_the_averages_and_gives_the_weights_back():
    made = program(use("ema", decay=0.5))
    run(made, 4)
    before = snapshot(made)
    ema = made.middleware["ema"]
    averages = ema.weights()
    with made.evaluating() as state:
        for name, value in state.model.state_dict().items():
            assert np.array_equal(value.numpy(), averages[name]), name
    assert not differing(before, snapshot(made))
    with pytest.raises(KeyError), made.evaluating():
        raise KeyError
    assert not differing(before, snapshot(made))
    plain = program()
    plain.restore({**before, "middleware": {}})
    plain.model.load_state_dict({n: torch.as_tensor(v) for n, v in averages.items()})
    assert plain.evaluate([batch(9)]) == made.evaluate([batch(9)])
    assert differing(dict(before["model"]), {n: torch.as_tensor(v) for n, v in averages.items()})


def test_a_middleware_that_swaps_weights_by_the_old_name_is_heard_and_told_the_new_one():
    class Doubled:
        def setup(self, builder):
            """Nothing is changed."""

        @contextmanager
        def lend(self, state):
            with torch.no_grad():
                for parameter in state.parameters:
                    parameter.mul_(2)
                yield
                for parameter in state.parameters:
                    parameter.div_(2)

    made = quadratic(Doubled())
    before = made.state.parameters[0].detach().clone()
    with pytest.warns(DeprecationWarning, match="Doubled.lend is called evaluation_weights now"), made.evaluating():
        assert torch.equal(made.state.parameters[0], 2 * before)
    assert torch.equal(made.state.parameters[0], before)


def test_checkpoints_hold_the_canonical_weights():
    bare, made = program(), program(use("ema", decay=0.5))
    run(bare), run(made)
    made.evaluate([batch(9)])
    assert not differing(snapshot(bare)["model"], snapshot(made)["model"])
    assert not [n for n, v in made.weights().items() if not np.array_equal(v, bare.weights()[n])]


def test_averages_of_bf16_weights_are_float32():
    made = program(use("ema", decay=0.999), model=lambda: Net(norm=False).bfloat16(), task=bf16_task)
    run(made, 3)
    averages = made.middleware["ema"].averages
    assert {a.dtype for a in averages.values()} == {torch.float32}
    first = program(use("ema", decay=0.999), model=lambda: Net(norm=False).bfloat16(), task=bf16_task)
    start = first.middleware["ema"].averages
    moved = max(float((averages[n] - start[n]).abs().max()) for n in averages)
    assert 0 < moved < 1e-3, "a step of 1 - decay is lost in bfloat16"
    made.evaluate([batch(9)])
    assert made.middleware["ema"].weights()["head.weight"].dtype == np.float32


def bf16_task(model, data):
    prediction = model(data["input"].bfloat16())
    return nn.functional.cross_entropy(prediction.float(), data["target"], reduction="sum"), len(data["target"]), prediction


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_buffers_are_copied_or_averaged(buffers):
    made = program(use("ema", decay=0.5, buffers=buffers))
    run(made, 3)
    name = "blocks.0.1.running_mean"
    live = made.model.state_dict()[name].clone()
    with made.evaluating() as state:
        seen = state.model.state_dict()[name].clone()
        assert int(state.model.state_dict()["blocks.0.1.num_batches_tracked"]) == 3
    assert torch.equal(seen, live) == (buffers == "copy")
    assert torch.equal(made.model.state_dict()[name], live)


def test_tied_weights_are_averaged_once_and_taken_out_under_both_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, ids):
            return self.out(self.embed(ids))

    made = build_program(Tied, middleware=[use("ema", decay=0.5)], device="cpu")
    made.step((torch.tensor([1, 2, 3]), torch.tensor([2, 3, 4])))
    found = made.middleware["ema"].weights()
    assert np.array_equal(found["embed.weight"], found["out.weight"])
    assert len(made.middleware["ema"].averages) == 1
    assert not np.array_equal(found["out.weight"], made.weights()["out.weight"])


def test_averages_of_another_model_are_refused():
    made, other = program(use("ema")), program(use("ema"), model=lambda: Net(width=6))
    tree = made.state_tree()
    with pytest.raises(CheckpointError, match=r"ema: embed.weight is \[12, 8\] in the checkpoint, \[6, 8\] here"):
        other.middleware["ema"].load_state_dict(tree["middleware"]["ema"])
    averages = dict(tree["middleware"]["ema"]["averages"])
    averages["hed.bias"] = averages.pop("head.bias")
    with pytest.raises(CheckpointError, match="ema average: .*missing: head.bias; unexpected: hed.bias"):
        made.middleware["ema"].load_state_dict({"updates": 0, "averages": averages})


# -- sharpness ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rho", [0.01, 0.5])
@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_against_the_closed_form_on_a_quadratic(adaptive, rho):
    made = quadratic(use("sam", rho=rho, adaptive=adaptive, eta=0.01))
    for _ in range(3):
        before = parameters(made)
        g = gradient(before)
        t = {n: np.abs(w) + 0.01 if adaptive else np.ones_like(w) for n, w in before.items()}
        norm = math.sqrt(sum(float(((t[n] * g[n]) ** 2).sum()) for n in g))
        moved = {n: before[n] + rho * t[n] ** 2 * g[n] / norm for n in g}
        wanted = gradient(moved)
        loss = made.fetch([made.step({"input": A})])["loss"]
        assert loss == pytest.approx(float((A.numpy() * before["w"] ** 2).sum() / 2 + before["v"].item() ** 2), rel=1e-14)
        for name, value in parameters(made).items():
            np.testing.assert_allclose(value, before[name] - 0.1 * wanted[name], rtol=1e-11)
            assert not np.allclose(value, before[name] - 0.1 * g[name], rtol=1e-6)


def test_sam_ascends_by_the_whole_batch_under_accumulation():
    task = lambda model, data: (model(data["input"].mean(0)) * len(data["input"]), len(data["input"]), None)  # noqa: E731
    data = {"input": A.repeat(5, 1) * torch.tensor([[1.0], [2.0], [0.5], [3.0], [1.0]], dtype=torch.float64)}
    found = []
    for middleware in ([use("sam", rho=0.3)], [use("accumulate", steps=2), use("sam", rho=0.3)]):
        made = build_program(Quadratic, task, use("sgd", lr=0.1), middleware=middleware, device="cpu")
        made.step(data)
        found.append(parameters(made))
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-12)


def test_sam_draws_the_same_dropout_twice_and_counts_the_batch_once():
    masks = []

    class Look(nn.Dropout):
        def forward(self, x):
            y = super().forward(x)
            masks.append((y == 0) & (x != 0))
            return y

    def net():
        made = Net()
        made.blocks[0][3] = Look(0.5)
        return made

    made = program(use("sam", rho=1e-4), model=net)
    run(made, 2)
    assert len(masks) == 4
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])
    bare = program(model=net)
    run(bare, 1)
    one = program(use("sam", rho=0.5), model=net)
    run(one, 1)
    buffers = [{n: b.clone() for n, b in p.model.named_buffers()} for p in (bare, one)]
    assert not differing(*buffers)
