"""Losses: totals and weights against the framework's means, and errors that teach."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from programs import Net, batch
from torch import nn

from mapsto import DataError, LossError, SpecError, registry, use
from mapsto.torch import build_program
from mapsto.torch.losses import stated

G = torch.Generator().manual_seed(1)
LOGITS = torch.randn(6, 4, 5, generator=G, dtype=torch.float64)
CLASSES = torch.randint(0, 5, (6, 4), generator=G)
SOFT = torch.softmax(torch.randn(6, 4, 5, generator=G, dtype=torch.float64), -1)
IGNORED = CLASSES.masked_fill(torch.rand(6, 4, generator=G) < 0.4, -100)
WEIGHTS = [0.5, 1.0, 2.0, 3.0, 0.1]
FLAT = LOGITS.reshape(-1, 5)


def mean(name, *args, **options):
    total, weight = registry.get("loss", name)(*args, **options)
    return float(total / weight), float(weight)


def test_cross_entropy_is_the_framework_s_mean():
    wanted = float(F.cross_entropy(FLAT, CLASSES.reshape(-1)))
    assert mean("cross_entropy", LOGITS, CLASSES) == (pytest.approx(wanted, rel=1e-14), 24)


def test_cross_entropy_with_ignored_targets_weights_and_smoothing():
    for options in (
        {},
        {"label_smoothing": 0.1},
        {"class_weights": WEIGHTS},
        {"class_weights": WEIGHTS, "label_smoothing": 0.2},
    ):
        plain = {k: v for k, v in options.items() if k != "class_weights"}
        weight = torch.tensor(WEIGHTS, dtype=torch.float64) if "class_weights" in options else None
        wanted = float(F.cross_entropy(FLAT, IGNORED.reshape(-1), weight, ignore_index=-100, **plain))
        got, weighs = mean("cross_entropy", LOGITS, IGNORED, ignore_index=-100, **options)
        assert got == pytest.approx(wanted, rel=1e-13), options
        kept = IGNORED[IGNORED != -100]
        assert weighs == pytest.approx(float(weight[kept].sum()) if weight is not None else len(kept))


def test_cross_entropy_against_probabilities():
    assert mean("cross_entropy", LOGITS, SOFT)[0] == pytest.approx(float(F.cross_entropy(FLAT, SOFT.reshape(-1, 5))), rel=1e-14)


def test_a_target_outside_the_classes_is_an_error_and_not_ignored():
    with pytest.raises(IndexError, match="Target -100 is out of bounds"):
        registry.get("loss", "cross_entropy")(LOGITS, IGNORED)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mse", F.mse_loss),
        ("mae", F.l1_loss),
        ("huber", F.huber_loss),
        ("binary_cross_entropy", F.binary_cross_entropy_with_logits),
    ],
)
def test_elementwise_losses_are_the_framework_s_means(name, reference):
    assert mean(name, LOGITS, SOFT) == (pytest.approx(float(reference(LOGITS, SOFT)), rel=1e-14), 120)


def test_focal_without_gamma_is_cross_entropy_and_with_it_the_formula():
    wanted, count = mean("cross_entropy", LOGITS, IGNORED, ignore_index=-100)
    assert mean("focal", LOGITS, IGNORED, gamma=0.0) == (pytest.approx(wanted, rel=1e-13), count)
    p = torch.softmax(FLAT, -1)[torch.arange(24), CLASSES.reshape(-1)]
    assert mean("focal", LOGITS, CLASSES, gamma=2.0)[0] == pytest.approx(float((-((1 - p) ** 2) * p.log()).mean()), rel=1e-13)


# -- what any callable may return --------------------------------------------------------------------------------------
def test_unreduced_losses_are_summed_and_counted():
    total, weight = stated(nn.CrossEntropyLoss(reduction="none"))(FLAT, CLASSES.reshape(-1))
    assert float(total / weight) == pytest.approx(float(F.cross_entropy(FLAT, CLASSES.reshape(-1))))
    assert weight == 24


def test_unreduced_losses_do_not_count_ignored_targets():
    labels = IGNORED.reshape(-1)
    total, weight = stated(nn.CrossEntropyLoss(reduction="none"))(FLAT, labels)
    assert float(total / weight) == pytest.approx(float(F.cross_entropy(FLAT, labels)))


def test_a_mean_teaches_its_ways_out():
    with pytest.raises(LossError) as caught:
        stated(nn.CrossEntropyLoss())(FLAT, CLASSES.reshape(-1))
    said = str(caught.value)
    assert "loss CrossEntropyLoss returned a scalar, which does not say its weight" in said
    assert 'use(the_loss, reduction="none")' in said
    assert 'use("mean_of", loss=the_loss, weight="records")' in said
    assert "return total, weight" in said


def test_a_mean_is_refused_in_a_step_and_the_way_out_that_is_taught_works():
    refused = build_program(Net, use("classification", loss=use(nn.CrossEntropyLoss)), device="cpu")
    with pytest.raises(LossError, match="does not say its weight"):
        refused.step(batch(0))
    wanted = build_program(Net, device="cpu")
    expected = wanted.fetch([wanted.step(batch(0))])["loss"]
    for loss in (
        use(nn.CrossEntropyLoss, reduction="none"),
        use("mean_of", loss=nn.CrossEntropyLoss(), weight="records"),
        use("mean_of", loss=use(nn.CrossEntropyLoss), weight="records"),
        use("mean_of", loss=use(nn.CrossEntropyLoss, reduction="sum"), weight="targets", reduction="sum"),
        lambda p, t: (F.cross_entropy(p, t, reduction="sum"), len(t)),
    ):
        made = build_program(Net, use("classification", loss=loss), device="cpu")
        assert made.fetch([made.step(batch(0))])["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (3.0, "returned a float"),
        (None, "returned a NoneType"),
        ((torch.tensor(1.0), 2, 3), "returned 3 values"),
        ((torch.tensor(1.0),), "returned 1 values"),
        ((torch.ones(3), 3), r"returned a total that is of shape \[3\]"),
        ((1.0, 3), "returned a total that is a float"),
    ],
)
def test_other_results_are_refused(returned, message):
    with pytest.raises(LossError, match=message):
        stated(lambda p, t: returned)(FLAT, CLASSES)


@pytest.mark.parametrize("returned", [torch.tensor(1.0), (torch.tensor(1.0), 2), (1, 2, 3, 4)])
def test_a_task_that_returns_something_else_is_named(returned):
    def my_task(model, data):
        return returned

    made = build_program(Net, my_task, device="cpu")
    with pytest.raises(
        LossError, match=r"task my_task returned (a Tensor|\d values), and \(total, weight, outputs\) is wanted"
    ):
        made.step(batch(0))


@pytest.mark.parametrize(("total", "said"), [(torch.ones(3), r"of shape \[3\]"), (2.0, "a float")])
def test_a_task_whose_total_is_no_scalar_is_named(total, said):
    made = build_program(Net, lambda model, data: (total, 1, None), device="cpu")
    with pytest.raises(LossError, match=f"returned a total that is {said}, and the summed loss, a scalar, is wanted"):
        made.step(batch(0))


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "binary_cross_entropy"])
def test_shapes_that_would_broadcast_are_refused(name):
    with pytest.raises(DataError, match=rf"{name}: the prediction is \[4, 1\] and the target \[4\]"):
        registry.get("loss", name)(torch.rand(4, 1), torch.rand(4))


def test_a_loss_that_is_nan_is_named_by_the_guard():
    made = build_program(
        Net, use("classification", loss=lambda p, t: (p.sum() * float("nan"), 1)), middleware=["nonfinite"], device="cpu"
    )
    with pytest.raises(LossError, match=r"step 0: the loss \(nan\) is not finite"):
        made.step(batch(0))


def test_mean_of_states_its_weight():
    x, t = torch.randn(3, 4), torch.randn(3, 4)
    for weight, count in (("records", 3), ("elements", 12), (lambda p, t: 7, 7)):
        total, weighs = build_mean_of(weight)(x, t)
        assert weighs == count
        assert float(total) == pytest.approx(float(F.mse_loss(x, t)) * count)
    with pytest.raises(LossError, match=r"mean_of: MSELoss returned \(3, 4\), and a scalar mean was announced"):
        build_mean_of("records", nn.MSELoss(reduction="none"))(x, t)
    with pytest.raises(SpecError, match="'rows' is a str.*should be 'records', 'elements' or 'targets'"):
        build_program(Net, use("classification", loss=use("mean_of", loss=nn.MSELoss(), weight="rows")), device="cpu")


def build_mean_of(weight, loss=None):
    from mapsto.torch import mean_of

    return mean_of(loss or nn.MSELoss(), weight)


def test_a_mean_over_nothing_is_a_sum_of_zero():
    prediction = torch.randn(4, 5, requires_grad=True)
    nothing = torch.full((4,), -100)
    total, weight = build_mean_of("targets", nn.CrossEntropyLoss())(prediction, nothing)
    assert (float(total.detach()), int(weight)) == (0.0, 0)
