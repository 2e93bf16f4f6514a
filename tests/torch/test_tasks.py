"""Tasks: what they call, measure, predict and show; evaluation that weighs each record once."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from programs import Net, batch, plain
from torch import nn

from mapsto import DataError, SpecError, use
from mapsto.torch import build_program

WHOLE = batch(records=29, dtype=torch.float64)


def cut(data, *sizes):
    edges = np.cumsum([0, *sizes])
    return [{n: v[a:b] for n, v in data.items()} for a, b in itertools.pairwise(edges)]


# -- classification ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [(29,), (10, 10, 9), (28, 1), (1,) * 29])
def test_evaluation_is_exact_however_the_records_are_cut(sizes):
    made = build_program(plain, device="cpu")
    logits = made.model(WHOLE["input"]).detach()
    found = made.evaluate(cut(WHOLE, *sizes))
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, WHOLE["target"])), rel=1e-13)
    assert found["accuracy"] == float((logits.argmax(-1) == WHOLE["target"]).double().mean())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool])
def test_class_indices_may_be_of_any_whole_type(dtype):
    trained = []
    for target in (WHOLE["target"] % 2, (WHOLE["target"] % 2).to(dtype)):
        made = build_program(plain, device="cpu")
        made.step({**WHOLE, "target": target})
        trained.append((made.model.state_dict(), made.evaluate([{**WHOLE, "target": target}])))
    (weights, found), (others, same) = trained
    assert found == same
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_evaluation_and_prediction_leave_modes_and_random_streams_to_training():
    made, twin = build_program(Net, device="cpu"), build_program(Net, device="cpu")
    made.model.blocks[0].eval()
    twin.model.blocks[0].eval()
    for step in range(3):
        made.evaluate([batch(9), batch(10, records=3)])
        list(made.predict([batch(9)]))
        made.step(batch(step)), twin.step(batch(step))
    assert not made.model.blocks[0].training
    assert made.model.blocks[1].training
    assert all(
        torch.equal(a, b) for a, b in zip(made.model.state_dict().values(), twin.model.state_dict().values(), strict=True)
    )


def test_prediction_gives_labels_and_probabilities_a_batch():
    made = build_program(plain, device="cpu")
    found = list(made.predict(cut(WHOLE, 20, 9)))
    assert [len(f["label"]) for f in found] == [20, 9]
    probability = np.concatenate([f["probability"] for f in found])
    np.testing.assert_allclose(probability.sum(1), 1.0, rtol=1e-6)
    assert np.array_equal(np.concatenate([f["label"] for f in found]), probability.argmax(1))


def test_the_confusion_matrix_counts_every_record():
    made = build_program(plain, use("classification", labels=["a", "b", "c"]), device="cpu")
    panel = made.panels(cut(WHOLE, 20, 9))[0]
    assert panel["kind"] == "confusion"
    assert panel["labels"] == ["a", "b", "c"]
    predicted = made.model(WHOLE["input"]).argmax(-1)
    for true in range(3):
        for said in range(3):
            count = int(((WHOLE["target"] == true) & (predicted == said)).sum())
            assert panel["rows"][true][said] == count


def test_own_metrics_are_averaged_exactly_and_torchmetrics_kept():
    from torchmetrics.classification import MulticlassF1Score

    def margin(prediction, target):
        top = prediction.topk(2).values
        return (top[:, 0] - top[:, 1]).sum(), len(target)

    metrics = {"margin": margin, "f1": MulticlassF1Score(3, average="macro")}
    made = build_program(plain, use("classification", metrics=metrics), device="cpu")
    for _ in range(2):  # the second evaluation starts anew
        found = made.evaluate(cut(WHOLE, 20, 9))
        logits = made.model(WHOLE["input"]).detach()
        top = logits.topk(2).values
        assert found["margin"] == pytest.approx(float((top[:, 0] - top[:, 1]).mean()), rel=1e-12)
        reference = MulticlassF1Score(3, average="macro")
        assert found["f1"] == pytest.approx(float(reference(logits, WHOLE["target"])), rel=1e-6)


def test_several_inputs_by_name_and_missing_fields():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain()

        def forward(self, a, b):
            return self.net(a + b)

    made = build_program(Two, use("classification", input=["left", "right"], target="label"), device="cpu")
    made.step({"left": WHOLE["input"], "right": WHOLE["input"], "label": WHOLE["target"]})
    with pytest.raises(DataError, match="the batch has no field 'right'; allowed: label, left, rigt; did you mean 'rigt'"):
        made.step({"left": WHOLE["input"], "rigt": WHOLE["input"], "label": WHOLE["target"]})
    with pytest.raises(DataError, match="the batch has no field 'label'"):
        made.step({"left": WHOLE["input"], "right": WHOLE["input"]})


# -- regression --------------------------------------------------------------------------------------------------------
def test_regression_measures_and_shows():
    data = {"input": WHOLE["input"], "target": WHOLE["input"][:, :2].sin()}
    made = build_program(lambda: nn.Linear(8, 2).double(), "regression", device="cpu")
    found = made.evaluate(cut(data, 20, 9))
    error = made.model(data["input"]).detach() - data["target"]
    assert found["loss"] == pytest.approx(float(error.square().mean()), rel=1e-12)
    assert found["mse"] == pytest.approx(float(error.square().mean()), rel=1e-12)
    assert found["mae"] == pytest.approx(float(error.abs().mean()), rel=1e-12)
    panel = made.panels(cut(data, 20, 9))[0]
    assert panel["kind"] == "scatter"
    assert len(panel["points"]) == 58


def test_regression_refuses_shapes_that_would_broadcast():
    """[B, 1] against [B] is [B, B] without a warning in many a training script."""
    made = build_program(lambda: nn.Linear(8, 1).double(), "regression", device="cpu")
    with pytest.raises(DataError, match=r"\[29, 1\].*\[29\]"):
        made.step({"input": WHOLE["input"], "target": WHOLE["input"][:, 0]})


def test_regression_measures_records_whatever_axes_of_one_there_are():
    data = {"input": WHOLE["input"], "target": WHOLE["input"][:, 0]}
    task = use("regression", loss=lambda p, t: (F.mse_loss(p[:, 0], t, reduction="sum"), len(t)))
    found = build_program(lambda: nn.Linear(8, 1).double(), task, device="cpu").evaluate([data])
    assert found["mse"] == pytest.approx(found["loss"], rel=1e-12)


# -- language models ---------------------------------------------------------------------------------------------------
def test_tokens_are_weighed_by_those_that_count():
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 50, (7, 6), generator=g)
    target = torch.randint(0, 50, (7, 6), generator=g).masked_fill(torch.rand(7, 6, generator=g) < 0.5, -100)
    data = {"input": ids, "target": target}
    made = build_program(lambda: nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50)).double(), "language_model", device="cpu")
    logits = made.model(ids).detach()
    wanted = float(F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100))
    for sizes in ((7,), (3, 3, 1)):
        found = made.evaluate(cut(data, *sizes))
        assert found["loss"] == pytest.approx(wanted, rel=1e-13)
        assert found["perplexity"] == pytest.approx(math.exp(wanted), rel=1e-12)
        kept = target != -100
        assert found["accuracy"] == pytest.approx(float((logits.argmax(-1) == target)[kept].double().mean()), rel=1e-12)
    assert made.panels([data])[0]["kind"] == "samples"
    assert next(iter(made.predict([data])))["token"].shape == (7, 6)


# -- plain functions ---------------------------------------------------------------------------------------------------
def test_a_function_is_a_task():
    def task(model, data):
        prediction = model(data["input"])
        return prediction.square().sum(), len(prediction), prediction

    made = build_program(plain, task, device="cpu")
    made.step(WHOLE)
    assert set(made.evaluate([WHOLE])) == {"loss"}
    with pytest.raises(SpecError, match=r"task: task has no predict\(outputs\)"):
        list(made.predict([WHOLE]))
    assert made.panels([WHOLE]) == []


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(DataError, match="nothing to evaluate"):
        build_program(plain, device="cpu").evaluate([])


def test_an_evaluation_that_fails_leaves_training_alone():
    made, twin = build_program(Net, device="cpu"), build_program(Net, device="cpu")
    wrong = {"input": torch.zeros(2, 9), "target": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(DataError, match=r"'embed' \(Linear\) does not accept argument 0 float32\[2, 9\]"):
        made.evaluate([batch(8), batch(9), wrong])
    with pytest.raises(DataError, match="the batch holds input"):
        list(made.predict([batch(8), wrong]))
    made.step(batch(0)), twin.step(batch(0))
    weights = (p.model.state_dict().values() for p in (made, twin))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
