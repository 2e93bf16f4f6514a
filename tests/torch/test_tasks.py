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


# -- what does not fit, and what fits in another form --------------------------------------------------------------------
class Given(nn.Module):
    """Gives what it is given, scaled, so that outputs may be of any shape."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return x * self.scale


def evaluated(task, outputs, target, *sizes):
    """The evaluation of a task on outputs, and its first predictions; a step too, since the loss must take them."""
    made = build_program(Given, task, use("sgd", lr=0.0), device="cpu")
    data = {"input": outputs, "target": target}
    made.step(data)
    return made.evaluate(cut(data, *(sizes or (len(outputs),)))), next(iter(made.predict([data])))


LOGITS = torch.randn(12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CLASSES = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(2))
RIGHT = float((LOGITS.argmax(-1) == CLASSES).double().mean())


@pytest.mark.parametrize("sizes", [(12,), (5, 7), (1,) * 12])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal", nn.CrossEntropyLoss(reduction="none")])
def test_a_column_of_classes_is_a_class_a_record(loss, sizes):
    found, _ = evaluated(use("classification", loss=loss), LOGITS, CLASSES[:, None], *sizes)
    assert found["accuracy"] == pytest.approx(RIGHT, rel=1e-12)
    assert found == evaluated(use("classification", loss=loss), LOGITS, CLASSES, *sizes)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize(("outputs", "target"), [((12,), (12,)), ((12, 1), (12,)), ((12, 1), (12, 1)), ((12, 4, 1), (12, 4))])
@pytest.mark.parametrize("loss", ["binary_cross_entropy", nn.BCEWithLogitsLoss(reduction="none")])
def test_one_logit_is_the_chance_of_class_one(loss, outputs, target, dtype):
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(outputs, generator=g, dtype=torch.float64)
    due = torch.randint(0, 2, target, generator=g).to(dtype)
    found, said = evaluated(use("classification", loss=loss, metrics=["auroc", "f1"]), logits, due)
    flat, wanted = logits.reshape(-1), due.reshape(-1).double()
    assert found["accuracy"] == pytest.approx(float(((flat > 0) == (wanted > 0.5)).double().mean()), rel=1e-12)
    assert found["loss"] == pytest.approx(float(F.binary_cross_entropy_with_logits(flat, wanted)), rel=1e-12)
    above = (flat[wanted > 0.5][:, None] > flat[wanted < 0.5]).double().mean()
    assert found["auroc"] == pytest.approx(float(above), rel=1e-12)
    np.testing.assert_allclose(said["probability"].reshape(-1), torch.sigmoid(flat).numpy(), rtol=1e-6)
    assert (said["label"].reshape(-1) == (flat > 0).numpy()).all()


def test_one_logit_is_no_class_for_a_loss_of_classes():
    with pytest.raises(DataError, match=r"gives one logit a target, \[12, 1\].*say loss: binary_cross_entropy"):
        evaluated("classification", LOGITS[:, :1], CLASSES * 0)


@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss(reduction="none")])
@pytest.mark.parametrize(("places", "axis"), [((4, 5), 1), ((4, 5), -1), ((3, 3), 1), ((3, 3), -1), ((3,), 1), ((3,), -1)])
def test_a_class_at_each_place_with_the_classes_on_the_axis_that_is_said(loss, places, axis):
    g = torch.Generator().manual_seed(4)
    logits = torch.randn(6, 3, *places, generator=g, dtype=torch.float64)
    due = torch.randint(0, 3, (6, *places), generator=g)
    wanted, right = float(F.cross_entropy(logits, due)), float((logits.argmax(1) == due).double().mean())
    outputs = logits if axis == 1 else logits.movedim(1, -1).contiguous()
    found, said = evaluated(use("classification", loss=loss, class_axis=axis, metrics=["f1"]), outputs, due, 2, 3, 1)
    assert (found["loss"], found["accuracy"]) == (pytest.approx(wanted, rel=1e-12), pytest.approx(right, rel=1e-12))
    assert (said["label"] == logits.argmax(1).numpy()).all()
    if axis == 1:
        with pytest.raises(DataError, match="fit in two ways|classes on axis 1: say class_axis: 1"):
            evaluated(use("classification", loss=loss), outputs, due)


IGNORING = (
    use("classification", loss=use("cross_entropy", ignore_index=-100)),
    use("classification", loss="focal"),
    use("classification", ignore_index=-100),
)


@pytest.mark.parametrize("task", IGNORING)
def test_targets_that_are_ignored_are_in_no_figure(task):
    due = torch.where(torch.arange(12) % 3 == 0, -100, CLASSES)
    kept = due != -100
    for sizes in ((12,), (1, 11), (4, 4, 4)):
        found, _ = evaluated(task, LOGITS, due, *sizes)
        assert found["accuracy"] == pytest.approx(float((LOGITS.argmax(-1) == due)[kept].double().mean()), rel=1e-12)
    made = build_program(Given, task, device="cpu")
    assert sum(map(sum, made.panels([{"input": LOGITS, "target": due}])[0]["rows"])) == int(kept.sum())


def test_a_loss_that_would_count_what_is_ignored_is_refused():
    def poly(prediction, target):
        return F.cross_entropy(prediction, target, reduction="none")

    with pytest.raises(SpecError, match=r"task.ignore_index: -1, and the loss poly has no ignore_index"):
        build_program(Given, use("classification", loss=poly, ignore_index=-1), device="cpu")


@pytest.mark.parametrize(("outputs", "target", "said"), [
    (LOGITS, F.one_hot(CLASSES, 3).double() + 1, "are the task multi_label"),
    (LOGITS, F.one_hot(CLASSES, 3), "0 and 1 a class are the task multi_label"),
    (LOGITS, CLASSES[:7].repeat(2)[:11], r"logits \[12, 3\] and targets \[11\]"),
    (LOGITS, LOGITS[:, 0], r"targets \[12\] \(float64\) do not fit: class indices \[12\] or probabilities \[12, 3\]"),
])  # fmt: skip
def test_targets_of_another_task_are_told(outputs, target, said):
    with pytest.raises(DataError, match=said):
        evaluated("classification", outputs, target)


def test_distributions_are_targets():
    soft = torch.softmax(LOGITS.flip(0), -1)
    found, _ = evaluated("classification", LOGITS, soft, 5, 7)
    assert found["loss"] == pytest.approx(float(F.cross_entropy(LOGITS, soft)), rel=1e-12)
    assert found["accuracy"] == pytest.approx(float((LOGITS.argmax(-1) == soft.argmax(-1)).double().mean()))


def test_several_classes_a_record():
    due = (torch.rand(12, 3, generator=torch.Generator().manual_seed(5)) < 0.5).long()
    found, said = evaluated(use("multi_label", metrics=[use("f1", average="none")], labels=["a", "b", "c"]), LOGITS, due, 5, 7)
    right = (LOGITS > 0) == (due > 0)
    assert found["accuracy"] == pytest.approx(float(right.double().mean()))
    assert found["exact_match"] == pytest.approx(float(right.all(1).double().mean()))
    both, either = ((LOGITS > 0) & (due > 0)).sum(0), (LOGITS > 0).sum(0) + due.sum(0)
    assert [found[f"f1.{c}"] for c in "abc"] == pytest.approx((2 * both / either).tolist())
    np.testing.assert_allclose(said["probability"], torch.sigmoid(LOGITS).numpy(), rtol=1e-6)
    assert evaluated(use("multi_label"), 50.0 * (2 * due - 1).double(), due)[0]["accuracy"] == 1.0
    with pytest.raises(DataError, match="one class a record is the task classification"):
        evaluated("multi_label", LOGITS, CLASSES)


# -- metrics -----------------------------------------------------------------------------------------------------------
def test_metrics_by_name_and_of_torchmetrics_are_exact_and_told_a_class():
    from sklearn.metrics import f1_score, roc_auc_score
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

    metrics = {
        "f1": use("f1", average="none"),
        "auc": "auroc",
        "theirs": MulticlassF1Score(3, average="none"),
        "both": MetricCollection([MulticlassAccuracy(3)]),
    }
    found, _ = evaluated(use("classification", labels=["a", "b", "c"], metrics=metrics), LOGITS, CLASSES, 5, 7)
    wanted = f1_score(CLASSES, LOGITS.argmax(-1), average=None)
    for name in ("f1", "theirs"):
        assert [found[f"{name}.{c}"] for c in "abc"] == pytest.approx(list(wanted), rel=1e-6)
    assert found["auc"] == pytest.approx(roc_auc_score(CLASSES, torch.softmax(LOGITS, -1), multi_class="ovr"), rel=1e-6)
    assert set(found) >= {"both.MulticlassAccuracy"}
    assert all(isinstance(v, float) for v in found.values())


def test_a_metric_that_reads_what_is_not_predicted_names_it():
    with pytest.raises(DataError, match=r"metrics.mae: the task predicts no 'value'; allowed: label, probability"):
        evaluated(use("classification", metrics=["mae"]), LOGITS, CLASSES)
    with pytest.raises(SpecError, match=r"task.metrics.0: there is no metric 'f2'; allowed: accuracy, .*f1"):
        build_program(plain, use("classification", metrics=["f2"]), device="cpu")


def test_the_panels_of_metrics_follow_those_of_the_task():
    made = build_program(plain, use("classification", metrics=["auroc", "ece"]), device="cpu")
    assert [p["title"] for p in made.panels(cut(WHOLE, 20, 9))] == ["Confusion matrix", "ROC", "Calibration"]


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
