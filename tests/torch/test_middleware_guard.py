"""The non-finite guard: what it names, what it leaves untouched, and that it keeps out of the scaler's way."""

from __future__ import annotations

import pytest
import torch
from programs import Net, batch, differing, program, run, snapshot
from torch import nn

from mapsto import LossError, use
from mapsto.torch import build_program
from mapsto.torch.middleware.diagnosis import NonfiniteError


class Log(nn.Module):
    """log of the input: not finite where it is not positive."""

    def forward(self, x):
        return torch.log(x)


class Root(nn.Module):
    """Finite at 0, where its gradient is not."""

    def forward(self, x):
        return torch.sqrt(x.abs())


class Deep(nn.Module):
    """A model whose `middle.1` may be replaced by what breaks it."""

    def __init__(self, broken: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.middle = nn.Sequential(nn.Dropout(0.3), broken, nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.middle(self.first(x)) + x)


class Zero(nn.Module):
    def forward(self, x):
        return x * 0.0


class Own(nn.Module):
    """Its own arithmetic breaks between two of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.b(torch.log(self.a(x)))


EXTRA = {
    "plain": [],
    "accumulate": [use("accumulate", steps=3)],
    "clip": [use("clip_norm", max_norm=1.0), use("ema", decay=0.9)],
    "sam": [use("sam", rho=0.05)],
    "recomputed": [use("activation_checkpointing", modules=["middle"])],
    "compiled": [use("compile", backend="eager")],
}


def failing(made, data):
    before = snapshot(made)
    with pytest.raises(NonfiniteError) as caught:
        made.step(data)
    after = snapshot(made)
    assert not differing(before, after), "weights, buffers, optimizer, middleware and step are as before"
    assert made.model.training
    assert made.state.shard == 0
    return caught.value


@pytest.mark.parametrize("extra", EXTRA)
@pytest.mark.parametrize(
    ("broken", "name", "words"),
    [
        (Log, "middle.1", "'middle.1' (Log): given float32"),
        (Own, "middle.1", "'middle.1' (Own): given float32"),
        (lambda: nn.Sequential(Zero(), Root()), "middle.1.1", "the first module on the way back whose gradient is not finite"),
    ],
    ids=["output", "own arithmetic", "gradient"],
)
def test_the_first_module_is_named_and_nothing_changed(broken, name, words, extra):
    made = program(use("nonfinite"), *EXTRA[extra], model=lambda: Deep(broken()))
    error = failing(made, batch(0))
    assert isinstance(error, LossError)
    assert (error.step, error.module) == (0, name)
    assert words in str(error)
    assert "the batch holds input float32[16, 8], target int64[16]" in str(error)
    assert error.batch["input"].shape == (16, 8)


def test_the_control_without_a_guard_ruins_the_weights():
    made = program(model=lambda: Deep(Log()))
    made.step(batch(0))
    assert not all(bool(torch.isfinite(p).all()) for p in made.model.parameters())


def test_a_batch_that_is_not_finite_is_blamed_itself():
    made = program(use("nonfinite"), use("sam", rho=0.1))
    run(made, 2)
    data = batch(0)
    data["input"][3, 4] = float("nan")
    error = failing(made, data)
    assert error.module is None
    assert "step 2" in str(error)
    assert "in the batch already, in input (float32[16, 8] with 1 nan, 0 inf)" in str(error)


def test_a_parameter_that_is_not_finite_is_named():
    made = program(use("nonfinite"))
    with torch.no_grad():
        made.model.blocks[1][0].weight[2, 3] = float("inf")
    error = failing(made, batch(0))
    assert error.module == "blocks.1.0"
    assert "its parameter weight is float32[12, 12] with 0 nan, 1 inf" in str(error)
    assert "not finite before this step: blocks.1.0.weight" in str(error)


def test_a_loss_of_its_own_making_is_told_from_the_model():
    def task(model, data):
        prediction = model(data["input"])
        return torch.log(-prediction.square()).sum(), len(prediction), prediction

    made = program(use("nonfinite"), task=task)
    error = failing(made, batch(0))
    assert error.module is None
    assert "it arose in the task or the loss" in str(error)


def test_the_micro_batch_is_named():
    made = program(use("nonfinite"), use("accumulate", steps=4), model=lambda: Deep(LogOfLarge()))
    data = batch(0)
    data["input"][9] = 1e4  # of records 8 to 11
    error = failing(made, data)
    assert "micro-batch 2" in str(error)
    assert error.module == "middle.1"


class LogOfLarge(nn.Module):
    def forward(self, x):
        return x + torch.log(torch.where(x.abs() > 50, -1.0, 1.0))


@pytest.mark.parametrize("every", [1, 2, 5])
def test_the_first_bad_step_is_found_whenever_it_is_read(every):
    made = program(use("nonfinite", every=every), use("ema", decay=0.9))
    twin = program(use("nonfinite"), use("ema", decay=0.9))
    run(twin, 3)
    bad = batch(3)
    bad["input"][0] = float("inf")
    with pytest.raises(NonfiniteError) as caught:
        [made.step(bad if step == 3 else batch(step)) for step in range(9)]
    assert caught.value.step == 3
    assert caught.value.batch["input"] is bad["input"] or torch.equal(caught.value.batch["input"], bad["input"])
    for part in ("model", "middleware"):
        left, right = snapshot(twin)[part], snapshot(made)[part]
        if part == "middleware":
            left, right = left["ema"]["averages"], right["ema"]["averages"]
        assert not differing(left, right), "nothing has changed since the step before"


@pytest.mark.parametrize("look", ["evaluate", "save"])
def test_what_was_not_read_is_read_before_evaluating_and_saving(look):
    made = program(use("nonfinite", every=100))
    bad = batch(1)
    bad["input"][0] = float("inf")
    made.step(batch(0)), made.step(bad), made.step(batch(2))
    with pytest.raises(NonfiniteError, match="step 1"):
        made.evaluate([batch(9)]) if look == "evaluate" else made.state_tree()


@pytest.mark.parametrize("optimizer", [use("adamw", lr=1e-2), use("sgd", lr=1e-2, momentum=0.9), use("rmsprop", lr=1e-2)])
def test_skip_goes_on_as_if_the_bad_step_had_not_been_there(optimizer):
    made, twin = (
        program(use("nonfinite", action="skip"), use("ema", decay=0.9), optimizer=optimizer, model=still) for _ in range(2)
    )
    bad = batch(1)
    bad["input"][0] = float("inf")
    metrics = [made.step(b) for b in (bad, batch(0), bad, batch(2))]
    twins = [twin.step(b) for b in (batch(0), batch(2))]
    found = made.fetch(metrics)
    assert found["skipped"] == 0.5
    assert found["loss"] == pytest.approx(made.fetch(twins)["loss"], rel=1e-6), "a skipped step does not count in the loss"
    assert not differing(snapshot(twin)["model"], snapshot(made)["model"])
    assert not differing(snapshot(twin)["middleware"]["ema"]["averages"], snapshot(made)["middleware"]["ema"]["averages"])


def still():
    """Batch statistics, no dropout: what a step does depends on the batch alone."""
    return Net(dropout=0.0)


def test_the_scaler_s_overflows_are_left_to_it():
    made = program(use("nonfinite"), use("mixed_precision", dtype="fp16", init_scale=2.0**60))
    metrics = [made.step(batch(i)) for i in range(60)]
    skipped = [float(m["skipped"]) for m in metrics]
    assert skipped[0] == 1.0
    assert skipped[-1] == 0.0


def test_gradients_that_overflow_without_scaling_are_a_fault():
    made = program(
        use("nonfinite"),
        use("mixed_precision", dtype="fp16", init_scale=4.0),
        model=lambda: Deep(nn.Sequential(Zero(), Root())),
    )
    with pytest.raises(NonfiniteError) as caught:
        [made.step(batch(i)) for i in range(8)]
    assert caught.value.step == 3, "scales 4, 2 and 1 are the scaler's to lower"
    assert caught.value.module == "middle.1.1"


def test_a_loss_that_is_not_finite_is_a_fault_at_any_scale():
    made = program(use("nonfinite"), use("mixed_precision", dtype="fp16"), model=lambda: Deep(Log()))
    assert failing(made, batch(0)).module == "middle.1"


def test_a_closure_is_guarded_and_its_trials_undone():
    made = program(use("nonfinite", every=4), optimizer=use("lbfgs", max_iter=4, lr=1.0))
    run(made, 1)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    bad = batch(0)
    bad["input"][0] = float("nan")
    with pytest.raises(NonfiniteError, match="in the batch already"):
        made.step(bad)
    assert not differing(before, {n: p.detach() for n, p in made.model.named_parameters()})


def test_huge_finite_gradients_are_finite():
    made = build_program(
        lambda: nn.Linear(2, 1, bias=False),
        lambda m, b: (m(b["input"]).sum() * 1e30, 1, None),
        use("sgd", lr=0.0),
        middleware=[use("nonfinite")],
        device="cpu",
    )
    made.step({"input": torch.ones(1, 2)})


def test_what_does_not_come_back_is_said():
    class Once(nn.Module):
        calls = 0

        def forward(self, x):
            Once.calls += 1
            return x * float("nan") if Once.calls == 1 else x

    made = program(use("nonfinite"), model=lambda: Deep(Once()))
    assert "run again, the step was finite" in str(failing(made, batch(0)))


def test_a_gradient_that_breaks_in_the_loss_is_told_from_the_model():
    def task(model, data):
        prediction = model(data["input"])
        return torch.sqrt((prediction * 0.0).square().sum()), len(prediction), prediction

    said = str(failing(program(use("nonfinite"), task=task), batch(0)))
    assert "a gradient is not finite" in said
    assert "it arose in the task or the loss" in said


def test_what_breaks_between_the_batch_and_the_model_is_said():
    class Scale:
        def loss(self, inner):
            return lambda state, data: inner(state, {**data, "input": data["input"] / 0.0})

    error = failing(program(use("nonfinite"), Scale()), batch(0))
    assert error.module is None
    assert "it arose between the batch and the model" in str(error)


def test_a_diagnosis_that_fails_still_says_what_it_knows():
    class Moody(nn.Module):
        calls = 0

        def forward(self, x):
            Moody.calls += 1
            if Moody.calls > 1:
                raise RuntimeError("not twice")
            return x * float("nan")

    said = str(failing(program(use("nonfinite"), model=lambda: Deep(Moody())), batch(0)))
    assert "running the step again ended in RuntimeError: not twice" in said
