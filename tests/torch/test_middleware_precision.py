"""Mixed precision: what is computed in which dtype, and dynamic loss scaling seen from both sides."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from programs import Net, batch, differing, program, run, snapshot
from torch import nn

from mapsto import CheckpointError, use
from mapsto.torch import build_program


def dtypes(made, action):
    seen = []
    handle = made.model.head.register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    action()
    handle.remove()
    return set(seen)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)])
def test_training_evaluation_and_prediction_run_in_the_dtype(name, dtype):
    made = program(use("mixed_precision", dtype=name))
    assert dtypes(made, lambda: run(made, 1)) == {dtype}
    assert dtypes(made, lambda: made.evaluate([batch(5)])) == {dtype}
    assert dtypes(made, lambda: list(made.predict([batch(5)]))) == {dtype}
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in made.state.parameters} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("task", ["cross_entropy", "focal", "binary_cross_entropy", "mse", "mae", "huber"])
def test_totals_are_summed_in_float32(task):
    """1000 losses summed in bfloat16 would be off by up to half a percent."""
    from mapsto.core.registry import registry

    loss = registry.get("loss", task)
    x, target = torch.randn(1000, 4), torch.randint(0, 4, (1000,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = nn.Linear(4, 4)(x)
        total, _ = loss(prediction, target if task in ("cross_entropy", "focal") else torch.rand(1000, 4))
    assert prediction.dtype == torch.bfloat16
    assert total.dtype == torch.float32


class Gain(nn.Module):
    """y = w x, whose gradient with respect to w is what the task says: nothing is cast."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.w * x


def scaled(*middleware, optimizer=None, model=Gain, **options):
    return build_program(
        model,
        lambda m, b: (m(b["input"]).sum(), len(b["input"]), None),
        optimizer or use("sgd", lr=0.5),
        middleware=[
            use("mixed_precision", **{"dtype": "fp16", "init_scale": 1024.0, "growth_interval": 3} | options),
            *middleware,
        ],
        device="cpu",
    )


def fill(value, records=2):
    return {"input": torch.full((records, 3), value)}


def test_the_loss_is_reported_unscaled_and_gradients_reach_the_update_unscaled():
    backward, update = [], []

    class Look:
        def update(self, inner):
            def look(state, metrics):
                update.append(state.parameters[0].grad.clone())
                return inner(state, metrics)

            return look

    made = scaled(Look())
    made.model.w.register_hook(lambda g: backward.append(g.clone()))
    metrics = made.fetch([made.step(fill(3.0))])
    assert metrics["loss"] == 9.0
    assert torch.equal(backward[0], torch.full((3,), 3.0 * 1024))
    assert torch.equal(update[0], torch.full((3,), 3.0))
    assert (metrics["loss_scale"], metrics["skipped"]) == (1024.0, 0.0)
    assert torch.equal(made.model.w.detach(), torch.full((3,), 1 - 1.5))


def test_clipping_sees_true_gradients():
    made = scaled(use("clip_norm", max_norm=1.0))
    assert made.fetch([made.step(fill(3.0))])["grad_norm"] == pytest.approx(3 * math.sqrt(3), rel=1e-6)
    first = build_program(
        Gain,
        lambda m, b: (m(b["input"]).sum(), len(b["input"]), None),
        use("sgd", lr=0.5),
        middleware=[use("clip_norm", max_norm=1.0), use("mixed_precision", dtype="fp16")],
        device="cpu",
    )
    assert first.fetch([first.step(fill(3.0))])["grad_norm"] == pytest.approx(3 * math.sqrt(3), rel=1e-6)


def test_no_scaling_is_seen_without_training():
    made = scaled()
    assert made.evaluate([fill(3.0)])["loss"] == 9.0


FUSED = {
    "sgd": use("sgd", lr=0.5),
    "momentum": use("sgd", lr=0.5, momentum=0.9),
    "adamw": use("adamw", lr=0.1),
    "adam": use("adam", lr=0.1),
    "adagrad": use(torch.optim.Adagrad, lr=0.1, fused=True),
}
READ = {
    "sgd read": use(torch.optim.SGD, lr=0.5, momentum=0.9),
    "rmsprop": use("rmsprop", lr=0.1),
    "nadam": use("nadam", lr=0.1),
}


@pytest.mark.parametrize("first_is_bad", [True, False])
@pytest.mark.parametrize("name", [*FUSED, *READ])
def test_a_step_that_overflows_changes_nothing_but_the_scale(name, first_is_bad):
    made = scaled(use("ema", decay=0.5), optimizer={**FUSED, **READ}[name])
    twin = scaled(use("ema", decay=0.5), optimizer={**FUSED, **READ}[name])
    if not first_is_bad:
        made.step(fill(2.0)), twin.step(fill(2.0))
    before = snapshot(made)
    metrics = made.fetch([made.step(fill(float("inf")))])
    assert metrics["skipped"] == 1.0
    after = snapshot(made)
    assert not differing(before["model"], after["model"])
    assert not differing(before["middleware"]["ema"]["averages"], after["middleware"]["ema"]["averages"])
    assert float(after["middleware"]["mixed_precision"]["scale"]) == 512.0
    assert made.position == (1 if first_is_bad else 2)
    # going on is as if the bad step had not been there
    for value in (1.0, 3.0):
        made.step(fill(value)), twin.step(fill(value))
    assert not differing(snapshot(twin)["model"], snapshot(made)["model"])
    assert not differing(snapshot(twin)["optimizer"]["state"], snapshot(made)["optimizer"]["state"])


def test_the_scale_grows_after_an_interval_and_shrinks_at_once():
    made = scaled()
    scales = [made.fetch([made.step(fill(v))])["loss_scale"] for v in (1.0, 1.0, 1.0, 1.0, 1e38, 1.0, 1.0, 1.0, 1.0)]
    # 1e38 * 2048 overflows float32: one backoff; each entry is the scale the step was computed with
    assert scales == [1024.0, 1024.0, 1024.0, 2048.0, 2048.0, 1024.0, 1024.0, 1024.0, 2048.0]


def test_the_schedule_counts_skipped_steps_without_a_warning():
    for optimizer in (use("adamw", lr=0.1), use("rmsprop", lr=0.1)):
        made = build_program(
            Gain,
            lambda m, b: (m(b["input"]).sum(), len(b["input"]), None),
            optimizer,
            use("linear", start_factor=1.0, end_factor=0.5, total_iters=4),
            middleware=[use("mixed_precision", dtype="fp16")],
            device="cpu",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made.step(fill(float("inf")))
            made.step(fill(1.0))
        assert made.rates()["lr"] == pytest.approx(0.075)


def test_under_accumulation_the_scale_is_the_same_for_every_micro_batch_and_one_overflow_skips_all():
    made = scaled(use("accumulate", steps=3), use("ema"))
    data = fill(2.0, records=6)
    assert made.fetch([made.step(data)])["loss"] == 6.0
    assert torch.equal(made.model.w.detach(), torch.full((3,), 0.0))
    data["input"][4] = float("inf")
    assert made.fetch([made.step(data)])["skipped"] == 1.0
    assert torch.equal(made.model.w.detach(), torch.full((3,), 0.0))


def test_with_sam_an_overflow_restores_and_skips():
    made = scaled(use("sam", rho=0.1))
    before = snapshot(made)["model"]
    assert made.fetch([made.step(fill(float("inf")))])["skipped"] == 1.0
    assert not differing(before, snapshot(made)["model"])


def test_training_in_half_precision_stays_near_full_precision():
    found = {}
    for dtype in ("fp32", "bf16", "fp16"):
        made = program(
            use("mixed_precision", dtype=dtype), model=lambda: Net(dropout=0.0, norm=False), optimizer=use("sgd", lr=0.05)
        )
        run(made, 20)
        found[dtype] = torch.cat([p.detach().flatten() for p in made.model.parameters()])
    start = torch.cat([p.detach().flatten() for p in program(model=lambda: Net(dropout=0.0, norm=False)).model.parameters()])
    moved = float((found["fp32"] - start).norm())
    assert float((found["fp16"] - found["fp32"]).norm()) / moved < 2e-2
    assert float((found["bf16"] - found["fp32"]).norm()) / moved < 1e-1
    assert differing(found["fp16"], found["fp32"])


def test_a_checkpoint_of_another_precision_is_refused():
    bf16, fp16 = program(use("mixed_precision")), program(use("mixed_precision", dtype="fp16"))
    with pytest.raises(CheckpointError, match="made without a loss scale, and this run is with one"):
        fp16.restore(bf16.state_tree())
    with pytest.raises(CheckpointError, match="made with a loss scale, and this run is without one"):
        bf16.restore(fp16.state_tree())


def test_an_embedding_with_sparse_gradients_is_unscaled():
    made = build_program(
        lambda: nn.Embedding(5, 2, sparse=True),
        lambda m, b: (m(b["input"]).sum(), 1, None),
        use(torch.optim.SGD, lr=1.0),
        middleware=[use("mixed_precision", dtype="fp16")],
        device="cpu",
    )
    before = made.model.weight.detach().clone()
    made.step({"input": torch.tensor([1, 1, 3])})
    assert torch.equal(
        (before - made.model.weight.detach()).round(decimals=4),
        torch.tensor([[0.0] * 2, [2.0] * 2, [0.0] * 2, [1.0] * 2, [0.0] * 2]),
    )
