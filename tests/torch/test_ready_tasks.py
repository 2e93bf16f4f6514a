"""Ready tasks against scikit-learn, SciPy, PyTorch's own losses and their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import mean_pinball_loss
from torch._subclasses.fake_tensor import FakeTensorMode

from mapsto.core.errors import DataError, SpecError
from mapsto.core.parts import build, use
from mapsto.tasks.metrics.spans import Concordance, SpanF1
from mapsto.torch.tasks import Gaussian, Ordinal, Quantiles, SequenceLabelling, Survival, ordinal, survival

DRAW = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=DRAW, dtype=torch.float64, requires_grad=True)


def applied(task: Any, outputs: torch.Tensor, **fields: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Total and weight of these outputs."""
    total, weight, _ = task(lambda *_: outputs, {"input": torch.zeros(len(outputs)), **fields})
    return total, weight


def number(total: torch.Tensor) -> float:
    return float(total.detach())


# -- intervals -------------------------------------------------------------------------------------------------------------
def test_quantiles_are_those_of_the_pinball_loss_and_never_cross() -> None:
    outputs, target = normal(50, 3), torch.randn(50, generator=DRAW, dtype=torch.float64)
    task = Quantiles([0.1, 0.5, 0.9])
    total, weight = applied(task, outputs, target=target)
    due = sum(
        mean_pinball_loss(target, outputs[:, i].detach(), alpha=level) for i, level in enumerate(task.levels)
    )  # means over records
    assert weight == 150
    assert number(total / 50) == pytest.approx(due, rel=1e-12)
    found = task.predict(outputs)
    assert (found["quantiles"].diff(dim=-1) >= 0).all()
    assert not (outputs.diff(dim=-1) >= 0).all(), "the control: those of the model do cross"
    measured = task.measure(outputs, {"target": target})
    inside = (found["low"] <= target) & (target <= found["high"])
    assert float(measured["coverage"][0]) == int(inside.sum())
    assert float(measured["mae"][0].detach()) == pytest.approx(float((found["value"] - target).abs().sum().detach()))


def test_constants_that_are_trained_become_the_quantiles_of_the_data() -> None:
    target = torch.from_numpy(np.random.default_rng(0).exponential(size=4000))
    outputs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.02)
    task = Quantiles([0.1, 0.5, 0.9])
    for _ in range(600):
        optimizer.zero_grad()
        total, weight = applied(task, outputs.expand(len(target), 3), target=target)
        (total / weight).backward()
        optimizer.step()
    assert outputs.detach().numpy() == pytest.approx(np.quantile(target, [0.1, 0.5, 0.9]), abs=0.03)


def test_a_gaussian_is_scipy_s_and_its_interval_holds_95_percent() -> None:
    outputs = normal(5000, 2)
    mean, spread = outputs.detach().unbind(-1)
    target = mean + torch.exp(spread / 2) * torch.randn(5000, generator=DRAW, dtype=torch.float64)
    task = Gaussian()
    total, weight = applied(task, outputs, target=target)
    due = -stats.norm.logpdf(target.numpy(), mean.numpy(), np.exp(spread.numpy() / 2)).sum()
    assert weight == 5000
    assert number(total) == pytest.approx(due, rel=1e-12)
    (gradient,) = torch.autograd.grad(total, outputs)
    theirs = torch.nn.functional.gaussian_nll_loss(
        outputs[:, 0], target, outputs[:, 1].exp(), full=True, eps=0.0, reduction="sum"
    )
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, outputs)[0], rtol=1e-12, atol=1e-12)
    inside, count = task.measure(outputs, {"target": target})["coverage"]
    assert float(inside) / count == pytest.approx(0.95, abs=0.01)
    column = applied(task, outputs, target=target[:, None])[0]
    assert number(column) == number(total), "a column is not subtracted from a row"


# -- ordinal ---------------------------------------------------------------------------------------------------------------
def test_an_ordinal_loss_is_the_sum_of_its_questions() -> None:
    outputs, target = normal(40, 3), torch.randint(4, (40,), generator=DRAW)
    total, weight = applied(Ordinal(), outputs, target=target)
    chance = 1 / (1 + np.exp(-outputs.detach().numpy()))
    above = target.numpy()[:, None] > np.arange(3)
    assert weight == 40
    assert number(total) == pytest.approx(-np.log(np.where(above, chance, 1 - chance)).sum(), rel=1e-12)
    found = Ordinal().predict(outputs)
    torch.testing.assert_close(found["probability"].sum(1), torch.ones(40))
    assert (found["probability"] >= 0).all()
    assert number(applied(Ordinal(), outputs, target=target[:, None])[0]) == number(total)
    sure = torch.tensor([[-9.0, -9, -9], [9, -9, -9], [9, 9, -9], [9, 9, 9]])
    assert Ordinal().predict(sure)["label"].tolist() == [0, 1, 2, 3]
    measured = Ordinal().measure(sure, {"target": torch.tensor([0, 2, 2, 0])})
    assert [float(part) for part, _ in measured.values()] == [2, 4]


# -- survival --------------------------------------------------------------------------------------------------------------
def test_survival_is_the_likelihood_of_hazards() -> None:
    outputs = normal(30, 5)
    time, event = torch.randint(5, (30,), generator=DRAW), torch.randint(2, (30,), generator=DRAW)
    total, weight = applied(Survival(), outputs, time=time, event=event)
    hazard = 1 / (1 + np.exp(-outputs.detach().numpy()))
    due = 0.0
    for h, t, seen in zip(hazard, time.tolist(), event.tolist(), strict=True):
        due -= np.log(1 - h[:t]).sum() + np.log(h[t] if seen else 1 - h[t])
    assert weight == 30
    assert number(total) == pytest.approx(due, rel=1e-12)
    (gradient,) = torch.autograd.grad(total, outputs)
    later = torch.arange(5) > time[:, None]
    assert (gradient[later] == 0).all(), "what comes after the time is not known"
    assert (gradient[~later] != 0).all()
    found = Survival().predict(outputs)
    assert found["survival"].detach().numpy() == pytest.approx(np.cumprod(1 - hazard, 1), rel=1e-12)


def test_trained_hazards_are_those_of_kaplan_and_meier() -> None:
    draw = np.random.default_rng(1)
    death, leave = draw.geometric(0.3, 3000) - 1, draw.geometric(0.15, 3000) - 1
    time = np.minimum(np.minimum(death, leave), 5)
    event = ((death <= leave) & (death <= 5)).astype(int)
    outputs = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([outputs], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        batch = {"time": torch.from_numpy(time), "event": torch.from_numpy(event)}
        total, weight = applied(Survival(), outputs.expand(3000, 6), **batch)
        (total / weight).backward()
        return total / weight

    optimizer.step(closure)
    at_risk = np.array([(time >= t).sum() for t in range(6)])
    hazards = np.array([((time == t) & (event == 1)).sum() for t in range(6)]) / at_risk
    assert torch.sigmoid(outputs).detach().numpy() == pytest.approx(hazards, abs=1e-4)


def test_concordance_counts_pairs_as_defined() -> None:
    draw = np.random.default_rng(2)
    value, time, event = draw.integers(0, 9, 60) / 3.0, draw.integers(0, 12, 60), draw.integers(0, 2, 60)
    right = pairs = 0.0
    for i in range(60):
        for j in range(60):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                right += 1.0 if value[i] < value[j] else 0.5 if value[i] == value[j] else 0.0
    metric = Concordance()
    metric.ROWS = 7  # type: ignore[misc]
    totals = metric.count({"value": value}, np.stack([time, event], 1), None)
    assert metric.finish(totals) == pytest.approx(right / pairs, rel=1e-12)
    assert metric.finish(metric.count({"value": time.astype(float)}, np.stack([time, event], 1), None)) > 0.9


# -- sequences -------------------------------------------------------------------------------------------------------------
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def test_spans_are_those_that_their_labels_mark() -> None:
    metric = SpanF1(LABELS)
    row = [LABELS.index(name) for name in ("B-PER", "I-PER", "O", "I-LOC", "I-LOC", "B-LOC", "I-PER")]
    assert metric.spans(np.array(row), np.ones(7, bool)) == {(0, 2, "PER"), (3, 5, "LOC"), (5, 6, "LOC"), (6, 7, "PER")}
    kept = np.array([True, False, True, True, True, True, False])
    assert metric.spans(np.array(row), kept) == {(0, 1, "PER"), (3, 5, "LOC"), (5, 6, "LOC")}
    due = np.array([[1, 2, 0, 3, 4, 0, 0]])
    got = np.array([[1, 2, 0, 3, 0, 1, 0]])
    told = metric.finish(metric.count({"label": got}, due, None))
    assert told == pytest.approx({"f1": 0.4, "precision": 1 / 3, "recall": 1 / 2})
    assert SpanF1().spans(np.array([1, 2, 0, 1, 1]), np.ones(5, bool)) == {(0, 2, ""), (3, 4, ""), (4, 5, "")}


def test_a_span_goes_on_over_the_later_pieces_of_its_words() -> None:
    due, ignored = np.array([[1, 0, 2, 0]]), np.array([[True, False, True, True]])
    metric = SpanF1(LABELS)

    def told(*row: int) -> Any:
        return metric.finish(metric.count({"label": np.array([row])}, due, ignored))["f1"]  # type: ignore[call-overload,index]

    assert told(1, 0, 2, 0) == told(1, 4, 2, 0) == 1
    assert told(1, 0, 1, 0) == 0, "two spans are not the one that is due"


def test_tokens_that_are_padded_count_in_no_figure_of_sequences() -> None:
    task = SequenceLabelling(labels=LABELS, metrics=[build(use("f1", average="macro"), "metric", path="metrics.0")])
    outputs, target = normal(3, 6, 5), torch.randint(5, (3, 6), generator=DRAW)
    target[0, 4:] = -100
    total, weight = applied(task, outputs, target=target)
    kept = target != -100
    due = torch.nn.functional.cross_entropy(outputs[kept], target[kept], reduction="sum")
    assert int(weight) == 16
    torch.testing.assert_close(total, due)
    wide = (
        torch.cat([outputs, torch.randn(3, 2, 5, dtype=torch.float64)], 1),
        torch.nn.functional.pad(target, (0, 2), value=-100),
    )
    assert list(task.counting_metrics()) == ["span_f1", "f1"]
    for name, metric in task.counting_metrics().items():
        told = []
        for made, classes in ((outputs, target), wide):
            predicted, wanted, mask = task.compared(made, {"target": classes})
            plain = {n: predicted[n].detach().numpy() for n in metric.reads}
            told.append(metric.finish(metric.count(plain, wanted.numpy(), mask.numpy())))
        assert told[0] == told[1], name


LATE = torch.tensor([1, 1, 3, 2])


# -- what does not fit -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("task", "outputs", "fields", "told"),
    [
        (Quantiles(), (4, 2), {"target": torch.zeros(4)}, "3 levels a target are wanted"),
        (Gaussian(), (4, 3), {"target": torch.zeros(4)}, "mean and log-variance of each target"),
        (Ordinal(), (4, 3), {"target": torch.tensor([0, 1, 4, 2])}, "3 logits tell classes 0 to 3, and a target is 4"),
        (Ordinal(), (4, 3), {"target": torch.zeros(4)}, r"\[B\] class indices are wanted"),
        (Survival(), (4, 3), {"time": LATE, "event": torch.ones(4)}, "3 intervals are 0 to 2, and 'time' is 3"),
        (Survival(), (4, 3), {"time": LATE - 1, "event": 2 * torch.ones(4)}, "'event' is neither 0 nor 1 in record 0"),
        (Survival(), (4, 3), {"time": LATE - 1, "event": torch.tensor([1, 0, 0.7, 1])}, "neither 0 nor 1 in record 2"),
        (Quantiles(), (3, 4, 3), {"target": torch.zeros(4, 3)}, r"targets \[3, 4\] are wanted"),
        (Gaussian(), (3, 4, 2), {"target": torch.zeros(4, 3)}, r"targets \[3, 4\] are wanted"),
        (Gaussian(), (3, 4, 2), {"target": torch.zeros(12)}, r"targets \[3, 4\] are wanted"),
        (Survival(), (4, 3), {"time": torch.rand(4), "event": torch.ones(4)}, "whole numbers of intervals"),
        (Survival(), (4, 3), {"tiem": torch.rand(4), "event": torch.ones(4)}, "no field 'time'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(task: Any, outputs: tuple[int, ...], fields: dict[str, torch.Tensor], told: str) -> None:
    with pytest.raises(DataError, match=told):
        applied(task, torch.zeros(outputs, requires_grad=True), **fields)


LATER = [
    (Ordinal(), {"target": torch.tensor([0, 1, 3, 2])}, {"target": torch.tensor([0, 1, -100, 2])}),
    (Survival(), {"time": LATE - 1, "event": torch.ones(4)}, {"time": LATE, "event": torch.ones(4)}),
    (Survival(), {"time": LATE - 1, "event": torch.ones(4)}, {"time": LATE - 1, "event": torch.full((4,), 0.5)}),
]


@pytest.mark.parametrize(("task", "right", "wrong"), LATER)
def test_a_later_batch_that_does_not_fit_is_said_too(task: Any, right: Any, wrong: Any) -> None:
    applied(task, normal(4, 3), **right)
    with pytest.raises(DataError, match="ordinal: 3 logits|'time' is 3|neither 0 nor 1"):
        applied(task, normal(4, 3), **wrong)


@pytest.mark.parametrize(("task", "right", "wrong"), LATER)
def test_where_values_cannot_be_read_the_loss_of_what_does_not_fit_is_no_number(
    task: Any, right: Any, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ordinal, survival):
        monkeypatch.setattr(module, "readable", lambda *_, **__: False)
    for fields, fits in ((right, True), (wrong, False)):
        outputs = normal(4, 3)
        total, _ = applied(task, outputs, **fields)
        (gradient,) = torch.autograd.grad(total, outputs)
        assert bool(total.isfinite()) is fits
        assert bool(gradient.isfinite().all()) is fits


def test_gradients_are_those_of_their_formulas() -> None:
    outputs, target = normal(20, 3), torch.randint(4, (20,), generator=DRAW)
    chance = 1 / (1 + np.exp(-outputs.detach().numpy()))
    (gradient,) = torch.autograd.grad(applied(Ordinal(), outputs, target=target)[0], outputs)
    assert gradient.numpy() == pytest.approx(chance - (target.numpy()[:, None] > np.arange(3)), abs=1e-12)
    time, event = target.clamp(max=2), torch.arange(20) % 2
    (gradient,) = torch.autograd.grad(applied(Survival(), outputs, time=time, event=event)[0], outputs)
    interval, when = np.arange(3), time.numpy()[:, None]
    due = (chance - ((interval == when) & (event.numpy()[:, None] > 0))) * (interval <= when)
    assert gradient.numpy() == pytest.approx(due, abs=1e-12)
    levels, number = np.array([0.1, 0.5, 0.9]), torch.randn(20, generator=DRAW, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(applied(Quantiles(), outputs, target=number)[0], outputs)
    assert gradient.numpy() == pytest.approx((number.numpy()[:, None] < outputs.detach().numpy()) - levels, abs=1e-12)


def test_levels_and_labels_that_cannot_be_are_refused() -> None:
    for levels in ([], [0.5, 0.1], [0.0, 0.5], [0.5, 0.5]):
        with pytest.raises(SpecError, match="rising levels between 0 and 1"):
            Quantiles(levels)
    with pytest.raises(SpecError, match="mark no spans"):
        SpanF1(["cat", "dog"])


def test_what_a_dry_run_is_given_has_no_values_to_be_looked_at() -> None:
    with FakeTensorMode():
        outputs, classes = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
        assert applied(Ordinal(), outputs, target=classes)[0].shape == ()
        assert applied(Survival(), outputs, time=classes, event=classes)[0].shape == ()
