"""Middleware of the loss against computations by hand: mixup, CutMix, distillation; and timing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from programs import Net, batch, plain, program, run, same_weights
from torch import nn

from mapsto import DataError, LossError, SpecError, generator, use
from mapsto.torch import build_program

DATA = batch(records=10, dtype=torch.float64)


def total_of(made, data, step=0, shard=0):
    made.state.step, made.state.shard = step, shard
    made.state.reseed()
    total, weight, outputs = made.loss(made.state, data)
    return total.detach(), weight, outputs


def image_batch():
    g = torch.Generator().manual_seed(2)
    return {"input": torch.rand(6, 3, 8, 10, generator=g, dtype=torch.float64), "target": torch.tensor([0, 1, 2, 3, 0, 1])}


def image_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 8, 4)).double()


# -- mixup -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("step", "shard"), [(0, 0), (5, 2)])
def test_mixup_against_a_computation_by_hand(step, shard):
    made = program(use("mixup", alpha=0.4), model=plain)
    made.state.step, made.state.shard = step, shard
    permutation = torch.randperm(10, generator=made.state.generator("mixup"))
    share = generator(3, "mixup", "share", step, shard).beta(0.4, 0.4)
    x = DATA["input"].numpy()
    mixed = torch.from_numpy(share * x + (1 - share) * x[permutation.numpy()])
    logits = F.log_softmax(made.model(mixed), -1)
    own, other = (-logits[torch.arange(10), t].sum() for t in (DATA["target"], DATA["target"][permutation]))
    total, weight, outputs = total_of(made, DATA, step, shard)
    assert weight == 10
    assert outputs.shape == (10, 3)
    assert float(total) == pytest.approx(float((share * own + (1 - share) * other).detach()), rel=1e-13)
    assert 0 < share < 1


def test_cutmix_against_a_computation_by_hand():
    made = build_program(image_net, middleware=[use("cutmix", alpha=1.0)], device="cpu")
    data = image_batch()
    for step in range(20):
        made.state.step = step
        permutation = torch.randperm(6, generator=made.state.generator("cutmix"))
        share = generator(0, "cutmix", "share", step, 0).beta(1.0, 1.0)
        draw = generator(0, "cutmix", "place", step, 0)
        rows, columns = np.zeros(8, bool), np.zeros(10, bool)
        for axis in (rows, columns):
            centre, half = int(draw.integers(len(axis))), int(len(axis) * np.sqrt(1 - share)) / 2
            axis[max(0, round(centre - half)) : min(len(axis), round(centre + half))] = True
        box = torch.from_numpy(rows[:, None] & columns[None, :])
        mixed = torch.where(box, data["input"][permutation], data["input"])
        kept = 1 - box.double().mean().item()
        logits = F.log_softmax(made.model(mixed), -1)
        own, other = (-logits[torch.arange(6), t].sum() for t in (data["target"], data["target"][permutation]))
        total, weight, _ = total_of(made, data, step)
        assert float(total) == pytest.approx(float((kept * own + (1 - kept) * other).detach()), rel=1e-12)
        assert weight == 6


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_calls_the_model_once_with_any_loss(name):
    calls = []

    def task(model, data):
        prediction = model(data["input"])
        return F.l1_loss(prediction, F.one_hot(data["target"], 4).double(), reduction="sum"), 24, prediction

    made = build_program(image_net, task, middleware=[use(name, alpha=1.0)], device="cpu")
    made.model.register_forward_hook(lambda *_: calls.append(1))
    made.step(image_batch())
    assert len(calls) == 1
    total, weight, outputs = total_of(made, image_batch())
    assert weight == 24
    assert outputs.shape == (6, 4)
    made.state.training = False
    assert float(total_of(made, image_batch())[0]) != float(total), "evaluation is not mixed"


def test_micro_batches_mix_by_themselves():
    made = program(use("mixup", alpha=1.0), model=plain)
    totals = {float(total_of(made, DATA, 0, shard)[0]) for shard in range(4)}
    assert len(totals) == 4


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "mixup",
            {**DATA, "input": torch.zeros(10, 8, dtype=torch.int64)},
            "mixup mixes fields of floating point, and 'input' is int64",
        ),
        (
            "mixup",
            {"inputs": DATA["input"], "target": DATA["target"]},
            "mixup: the batch has no field 'input'.*did you mean 'inputs'",
        ),
        ("cutmix", DATA, r"cutmix pastes boxes into images .* the field is \[10, 8\]"),
    ],
)
def test_mixing_refuses_what_it_cannot_mix(name, data, message):
    with pytest.raises(DataError, match=message):
        program(use(name, alpha=1.0), model=plain).step(data)


# -- distillation ------------------------------------------------------------------------------------------------------
def test_distillation_against_a_computation_by_hand():
    torch.manual_seed(9)
    teacher = plain()
    made = program(use("distillation", teacher=teacher, alpha=0.3, temperature=3.0), model=plain)
    student, wanted = made.model(DATA["input"]).detach(), teacher(DATA["input"]).detach()
    p, q = (np.exp(z / 3) / np.exp(z / 3).sum(1, keepdims=True) for z in (wanted.numpy(), student.numpy()))
    expected = 0.7 * float(F.cross_entropy(student, DATA["target"], reduction="sum")) + 0.3 * 9 * float(
        (p * np.log(p / q)).sum()
    )
    total, weight, _ = total_of(made, DATA)
    assert float(total) == pytest.approx(expected, rel=1e-12)
    assert weight == 10
    made.state.training = False
    assert float(total_of(made, DATA)[0]) == pytest.approx(float(F.cross_entropy(student, DATA["target"], reduction="sum")))


def test_the_teacher_is_not_trained_nor_saved_and_in_evaluation_mode():
    teacher = Net()
    before = {n: v.clone() for n, v in teacher.state_dict().items()}
    made = program(use("distillation", teacher=teacher))
    run(made, 2)
    assert all(torch.equal(v, before[n]) for n, v in teacher.state_dict().items())
    assert not teacher.training
    assert "distillation" not in made.state_tree()["middleware"]
    assert list(made.state_tree()["model"]) == list(program().state_tree()["model"])


def test_a_teacher_may_be_a_part_and_is_made_from_the_seed():
    torch.manual_seed(1)
    one = program(use("distillation", teacher=use(Net, width=4)))
    torch.manual_seed(2)
    two = program(use("distillation", teacher=use(Net, width=4)))
    weights = (p.middleware["distillation"].teacher.state_dict().values() for p in (one, two))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    run(one), run(two)
    assert same_weights(one, two)
    assert same_weights(program(), program(use("distillation", teacher=use(Net)))), "the model is drawn by itself"


def test_ignored_tokens_are_not_distilled():
    def net():
        torch.manual_seed(4)
        return nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7)).double()

    def total(target):
        made = build_program(
            net, "language_model", middleware=[use("distillation", teacher=net(), alpha=1.0, ignore_index=-100)], device="cpu"
        )
        with torch.no_grad():
            made.model[1].weight.mul_(2.0)
        return float(total_of(made, {"input": torch.tensor([[1, 2, 3]]), "target": torch.tensor([target])})[0])

    whole = total([2, 3, 4])
    assert total([-100, -100, -100]) == 0.0
    assert total([2, -100, -100]) + total([-100, 3, 4]) == pytest.approx(whole, rel=1e-12)
    assert whole > 0


def test_teacher_and_student_agree_on_shapes():
    with pytest.raises(LossError, match=r"the teacher's logits are \[16, 5\], the student's \[16, 3\]"):
        program(use("distillation", teacher=Net(classes=5))).step(batch(0))


def test_a_teacher_of_other_fields_and_a_task_of_other_outputs_are_refused():
    with pytest.raises(DataError, match="distillation: the batch has no field 'image'; allowed: input, target"):
        program(use("distillation", teacher=Net(), input="image")).step(batch(0))

    def task(model, data):
        return model(data["input"]).sum(), 1, {"logits": 1}

    with pytest.raises(LossError, match=r"the teacher's logits are \[16, 3\], the student's dict"):
        program(use("distillation", teacher=Net()), task=task).step(batch(0))
    with pytest.raises(SpecError, match="teacher: 3 is a int, and a model is wanted"):
        program(use("distillation", teacher=3))


def test_a_task_may_look_into_the_model_while_it_is_mixed():
    def task(model, data):
        prediction = model.head(model.embed(data["input"]))
        return F.cross_entropy(prediction, data["target"], reduction="sum"), len(prediction), prediction

    made = program(use("mixup", alpha=1.0), model=lambda: Net(dropout=0.0), task=task)
    bare = program(model=lambda: Net(dropout=0.0), task=task)
    run(made, 1), run(bare, 1)
    assert not same_weights(made, bare)


# -- timing ------------------------------------------------------------------------------------------------------------
PARTS = {"time/loss", "time/grad", "time/update", "time/other"}


@pytest.mark.parametrize("extra", [(), (use("accumulate", steps=3), use("sam", rho=0.1), use("nonfinite"))])
def test_timing_samples_and_its_parts_add_up(extra):
    made = program(use("timing", every=3), *extra)
    metrics = run(made, 7)
    assert [m.keys() >= PARTS for m in metrics] == [True, False, False, True, False, False, True]
    assert all(not (PARTS & m.keys()) for m in metrics[1:3])
    found = made.fetch(metrics)
    assert all(found[part] > 0 for part in PARTS)


def test_the_parts_are_exclusive(monkeypatch):
    """A clock that ticks once a reading tells nesting exactly."""
    from mapsto.torch.middleware import timing

    ticks = iter(range(1000))
    monkeypatch.setattr(timing, "_now", lambda state: float(next(ticks)))
    made = program(use("timing", every=1), use("accumulate", steps=2))
    spent = {k: v for k, v in made.step(batch(0)).items() if k in PARTS}
    # readings: step 0, grad 1, loss 2 3, loss 4 5, grad end 6, update 7 8, step end 9
    assert spent == {"time/loss": 2.0, "time/grad": 3.0, "time/update": 1.0, "time/other": 3.0}
    assert sum(spent.values()) == 9.0


def test_the_clock_is_read_on_sampled_steps_alone_and_an_exception_ends_them(monkeypatch):
    from mapsto.torch.middleware import timing

    read = []
    monkeypatch.setattr(timing, "_now", lambda state: read.append(1) or 0.0)
    made, bare = program(use("timing", every=2)), program()
    with pytest.raises(DataError):
        made.step({"input": torch.zeros(4, 9), "target": torch.zeros(4, dtype=torch.int64)})
    read.clear()
    made.evaluate([batch(0)])
    assert not read
    counts = []
    for step in range(4):
        made.step(batch(step)), bare.step(batch(step))
        counts.append(len(read))
        read.clear()
    assert counts == [8, 0, 8, 0]  # step, grad, loss and update: a start and an end each
    assert same_weights(bare, made)


def test_a_closure_is_timed_within_the_update():
    made = program(use("timing", every=1), optimizer=use("lbfgs", max_iter=3))
    metrics = made.step(batch(0))
    assert all(metrics[part] > 0 for part in PARTS)
