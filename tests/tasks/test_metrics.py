"""Every metric against an independent oracle, however its records are cut, on hard cases too."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from mapsto.core.errors import DataError, SpecError
from mapsto.tasks.metric import Metric, Tally, by_name, named
from mapsto.tasks.metrics import classes, numbers, ranking, scores, texts

Array = np.ndarray[Any, Any]
CUTS = ((40,), (1, 39), (13, 0, 20, 7), (1,) * 40)


def measured(
    metric: Metric, prediction: Mapping[str, Array], target: Array, cut: tuple[int, ...], mask: Array | None = None
) -> Any:
    """The numbers of a metric, its records cut over two ranks with two micro-shards each."""
    tallies = [Tally({"it": metric}), Tally({"it": metric})]
    start = 0
    for i, size in enumerate(cut):
        part = slice(start, start + size)
        given = {name: value[part] for name, value in prediction.items()}
        tallies[i % 2].count(i % 2 + 2 * (i // 2 % 2), given, target[part], None if mask is None else mask[part])
        start += size
    totals = tallies[0].totals([t.state() for t in tallies])
    return tallies[0].results(totals)


def agree(metric: Metric, prediction: Mapping[str, Array], target: Array, wanted: float, mask: Array | None = None) -> None:
    for cut in CUTS:
        found = measured(metric, prediction, target, cut, mask)
        assert found["it"] == pytest.approx(wanted, rel=1e-9, abs=1e-12, nan_ok=True), cut


def drawn(seed: int, count: int = 3, *, ties: bool = False) -> tuple[dict[str, Array], Array]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(40, count))
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if ties:
        probability = np.full((40, count), 1 / count)
        probability[::3] = np.eye(count)[rng.integers(0, count, len(probability[::3]))]
    return {"label": probability.argmax(1), "probability": probability}, rng.integers(0, count, 40)


AVERAGES = ("macro", "micro", "weighted")
OF_LABELS: dict[str, tuple[Metric, Callable[[Array, Array], float]]] = {
    "accuracy": (classes.Accuracy(), sk.accuracy_score),
    "balanced": (classes.BalancedAccuracy(), sk.balanced_accuracy_score),
    "confusion": (classes.Confusion(), sk.accuracy_score),
    **{
        f"{name} {average}": (made(average=average), functools.partial(oracle, average=average, zero_division=0))  # type: ignore[operator]
        for average in AVERAGES
        for name, made, oracle in (
            ("precision", classes.Precision, sk.precision_score),
            ("recall", classes.Recall, sk.recall_score),
            ("f1", classes.F1, sk.f1_score),
            ("dice", classes.Dice, sk.f1_score),
            ("iou", classes.IoU, sk.jaccard_score),
            ("f2", functools.partial(classes.FBeta, 2.0), functools.partial(sk.fbeta_score, beta=2)),
        )
    },
}


@pytest.mark.filterwarnings("ignore:y_pred contains classes", "ignore:A single label was found")
@pytest.mark.parametrize("case", ["drawn", "a class that is never due", "a class that is never predicted", "one class"])
@pytest.mark.parametrize("name", OF_LABELS)
def test_metrics_of_labels_are_scikit_learn_s(name: str, case: str) -> None:
    metric, oracle = OF_LABELS[name]
    prediction, target = drawn(1)
    label = prediction["label"]
    if case == "a class that is never due":
        target = np.where(target == 1, 0, target)
    elif case == "a class that is never predicted":
        label = np.where(label == 2, 0, label)
    elif case == "one class":
        label, target = label * 0, target * 0
    agree(metric, {"label": label}, target, oracle(target, label))


@pytest.mark.parametrize("name", [n for n in OF_LABELS if "balanced" not in n and "confusion" not in n and n != "accuracy"])
def test_several_classes_a_record_are_measured_by_class(name: str) -> None:
    metric, oracle = OF_LABELS[name]
    rng = np.random.default_rng(2)
    label, target = rng.integers(0, 2, (40, 4)), rng.integers(0, 2, (40, 4))
    agree(metric, {"label": label}, target, oracle(target, label))


def test_a_class_of_two_a_number_a_class_and_classes_that_do_not_count() -> None:
    prediction, target = drawn(3, 2)
    agree(classes.F1("binary"), prediction, target, sk.f1_score(target, prediction["label"]))
    prediction, target = drawn(3)
    by_class = sk.f1_score(target, prediction["label"], average=None)
    found = measured(classes.F1("none"), prediction, target, (13, 27))
    assert found == pytest.approx({f"it.{i}": v for i, v in enumerate(by_class)})
    without = sk.f1_score(target, prediction["label"], average="macro", labels=[1, 2])
    agree(classes.F1(leave_out=[0]), prediction, target, without)


OF_SCORES: dict[str, tuple[Metric, Callable[[Array, Array], float]]] = {
    "log_loss": (scores.LogLoss(), lambda y, p: sk.log_loss(y, p, labels=range(p.shape[1]))),
    "perplexity": (scores.Perplexity(), lambda y, p: float(np.exp(sk.log_loss(y, p, labels=range(p.shape[1]))))),
    "brier": (
        scores.Brier(),
        lambda y, p: float(np.mean(((p - np.eye(p.shape[1])[y]) ** 2).sum(1)) / (2 if p.shape[1] == 2 else 1)),
    ),
    "auroc": (scores.AUROC(), lambda y, p: sk.roc_auc_score(y, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr")),
    "auroc weighted": (
        scores.AUROC("weighted"),
        lambda y, p: sk.roc_auc_score(y, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr", average="weighted"),
    ),
    "average_precision": (
        scores.AveragePrecision(),
        lambda y, p: (
            sk.average_precision_score(y, p[:, 1]) if p.shape[1] == 2 else sk.average_precision_score(np.eye(p.shape[1])[y], p)
        ),
    ),
    "top_1": (scores.TopK(1), lambda y, p: sk.accuracy_score(y, p.argmax(1))),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", OF_SCORES)
def test_metrics_of_probabilities_are_scikit_learn_s(name: str, count: int, ties: bool) -> None:
    metric, oracle = OF_SCORES[name]
    prediction, target = drawn(4, count, ties=ties)
    agree(metric, prediction, target, oracle(target, prediction["probability"]))
    if count == 2:  # one probability a record is that of class 1
        agree(metric, {"probability": prediction["probability"][:, 1]}, target, oracle(target, prediction["probability"]))


def test_top_k_and_calibration_by_their_definitions() -> None:
    prediction, target = drawn(5, 5)
    p = prediction["probability"]
    agree(scores.TopK(2), prediction, target, sk.top_k_accuracy_score(target, p, k=2, labels=range(5)))
    most, right, wanted = p.max(1), p.argmax(1) == target, 0.0
    for low in np.arange(10) / 10:
        inside = (most > low) & (most <= low + 0.1)
        wanted += abs(most[inside].sum() - right[inside].sum()) / 40
    agree(scores.ECE(10), prediction, target, wanted)


def test_a_class_that_is_all_or_nothing_has_no_auroc() -> None:
    prediction, target = drawn(6)
    only = np.where(target == 1, 0, target)
    wanted = np.mean([sk.roc_auc_score(only == i, prediction["probability"][:, i]) for i in (0, 2)])
    agree(scores.AUROC(), prediction, only, float(wanted))
    agree(scores.AUROC(), prediction, target * 0, float("nan"))
    broken = {"probability": np.where(np.arange(40)[:, None] == 7, np.nan, prediction["probability"])}
    assert np.isnan(measured(scores.AUROC(), broken, target, (40,))["it"])
    assert np.isnan(measured(scores.LogLoss(), broken, target, (40,))["it"])


OF_NUMBERS: dict[str, tuple[Metric, Callable[[Array, Array], float]]] = {
    "mae": (numbers.MAE(), sk.mean_absolute_error),
    "mse": (numbers.MSE(), sk.mean_squared_error),
    "rmse": (numbers.RMSE(), lambda y, v: float(np.sqrt(sk.mean_squared_error(y, v)))),
    "mape": (numbers.MAPE(), sk.mean_absolute_percentage_error),
    "quantile": (numbers.QuantileLoss(0.9), lambda y, v: sk.mean_pinball_loss(y, v, alpha=0.9)),
    "r2": (numbers.R2(), sk.r2_score),
}


@pytest.mark.parametrize("shift", [0.0, 1e8])
@pytest.mark.parametrize("columns", [(), (1,), (3,)])
@pytest.mark.parametrize("name", OF_NUMBERS)
def test_metrics_of_numbers_are_scikit_learn_s(name: str, columns: tuple[int, ...], shift: float) -> None:
    metric, oracle = OF_NUMBERS[name]
    rng = np.random.default_rng(7)
    target = shift + rng.normal(size=(40, *columns))
    value = target + rng.normal(size=target.shape)
    agree(metric, {"value": value}, target, oracle(target, value))


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_of_ranks_are_scipy_s(ties: bool) -> None:
    from scipy import stats

    rng = np.random.default_rng(8)
    target, value = rng.normal(size=40), rng.normal(size=40)
    if ties:
        target, value = target.round(), value.round()
    agree(numbers.Spearman(), {"value": value}, target, stats.spearmanr(value, target).statistic)
    agree(numbers.Kendall(), {"value": value}, target, stats.kendalltau(value, target).statistic)


def by_hand(metric: ranking.Ranking, score: Array, relevance: Array, there: Array) -> float:
    """A ranking metric from its definition, a query at a time; among equal scores the relevant come last."""
    found = []
    for s, r, m in zip(score, relevance, there, strict=True):
        pairs = sorted(((-a, b) for a, b, ok in zip(s, r, m, strict=True) if ok), key=lambda p: (p[0], p[1]))
        order = [b for _, b in pairs]
        k, good = metric.k or len(order), [b for b in order if b > 0]
        if not good:
            continue
        top = order[:k]
        gain = (lambda b: 2**b - 1) if getattr(metric, "gain", "") == "exponential" else (lambda b: b)
        dcg = sum(gain(b) / np.log2(i + 2) for i, b in enumerate(top))
        ideal = sum(gain(b) / np.log2(i + 2) for i, b in enumerate(sorted(order, reverse=True)[:k]))
        first = next((i for i, b in enumerate(top) if b > 0), None)
        hits = [i for i, b in enumerate(top) if b > 0]
        precisions = [(j + 1) / (i + 1) for j, i in enumerate(hits)]
        found.append({
            "ndcg": dcg / ideal, "hit_rate": float(bool(hits)), "recall": len(hits) / len(good),
            "mrr": 0.0 if first is None else 1 / (first + 1),
            "map": sum(precisions) / min(len(good), k),
        }[metric.short])  # fmt: skip
    return float(np.mean(found))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    "metric",
    [ranking.NDCG(3), ranking.NDCG(None, "exponential"), ranking.HitRate(2), ranking.RecallAt(3), ranking.MRR(), ranking.MRR(2),
     ranking.MAPAt(4)],
    ids=lambda m: m.name,
)  # fmt: skip
def test_metrics_of_rankings_by_their_definitions(metric: ranking.Ranking, ties: bool) -> None:
    rng = np.random.default_rng(9)
    score, relevance = rng.normal(size=(40, 6)), rng.integers(0, 3, (40, 6)) * rng.integers(0, 2, (40, 6))
    there = rng.random((40, 6)) < 0.8
    if ties:
        score = score.round()
    relevance[:3] = 0
    agree(metric, {"score": score}, relevance, by_hand(metric, score, relevance, there), there)


def test_ndcg_without_ties_is_scikit_learn_s_and_a_constant_score_gains_nothing() -> None:
    rng = np.random.default_rng(10)
    score, relevance = rng.normal(size=(40, 6)), rng.integers(0, 4, (40, 6))
    agree(ranking.NDCG(3), {"score": score}, relevance, sk.ndcg_score(relevance, score, k=3))
    first = np.eye(6)[np.zeros(40, int)]
    agree(ranking.HitRate(1), {"score": np.zeros((40, 6))}, first, 0.0)  # the relevant one stands first by chance


def test_translations_are_scored_by_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    due = np.array(["the cat sat on the mat", "a dog barks loudly", "it rains", "nothing is here to be seen"] * 10, object)
    said = np.array([t.replace("cat", "dog").replace("rains", "pours") for t in due], object)
    agree(texts.BLEU(), {"text": said}, due, sacrebleu.corpus_bleu(list(said), [list(due)]).score)
    agree(texts.CHRF(), {"text": said}, due, sacrebleu.corpus_chrf(list(said), [list(due)]).score)


# -- masks, shapes, names ----------------------------------------------------------------------------------------------
MASKED = (classes.Accuracy(), classes.F1(), scores.LogLoss(), scores.AUROC(), numbers.MAE(), numbers.R2())


@pytest.mark.parametrize("metric", MASKED, ids=lambda m: m.name)
def test_what_is_masked_changes_nothing(metric: Metric) -> None:
    prediction, target = drawn(11)
    prediction["value"] = prediction["probability"][:, 0]
    kept = np.arange(40) % 3 != 0
    wanted = measured(metric, {n: v[kept] for n, v in prediction.items()}, target[kept], (20, 6))
    agree(metric, prediction, target, wanted["it"], kept)


@pytest.mark.parametrize(("metric", "prediction", "target", "said"), [
    (classes.Accuracy(), {"label": np.zeros((4, 1), int)}, np.zeros(4, int), r"labels \[4, 1\] and targets \[4\] differ"),
    (classes.F1(), {"label": np.zeros(4, int)}, np.full(4, -100), "a target is -100, and a class is wanted"),
    (classes.F1(), {"label": np.zeros(4)}, np.zeros(4, int), "a label is float64, and a class is wanted"),
    (scores.LogLoss(), {"probability": np.ones((4, 3))}, np.zeros((4, 2), int), "do not fit"),
    (numbers.MAE(), {"value": np.zeros((4, 1))}, np.zeros(4), r"values \[4, 1\] and targets \[4\] differ"),
    (ranking.MRR(), {"score": np.zeros(4)}, np.zeros(4), "queries, candidates"),
    (numbers.MAE(), {"valu": np.zeros(4)}, np.zeros(4), "predicts no 'value'.*did you mean 'valu'"),
])  # fmt: skip
def test_what_does_not_fit_is_told(metric: Metric, prediction: dict[str, Array], target: Array, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Tally({"it": metric}).count(0, prediction, target, None)


def test_metrics_of_a_list_name_themselves_and_results_have_the_classes_names() -> None:
    assert list(by_name([classes.F1(), ranking.NDCG(5), scores.TopK(3), len])) == ["f1", "ndcg@5", "top_3", "len"]
    with pytest.raises(SpecError, match="two are called 'f1'"):
        by_name([classes.F1(), classes.F1("micro")])
    with pytest.raises(SpecError, match=r"metrics.a: a float is no metric"):
        by_name({"a": 0.5})
    assert named("f1", {0: 0.5, 1: 1.0, 2: 0.0}, ["cat", "dog"]) == {"f1.cat": 0.5, "f1.dog": 1.0, "f1.2": 0.0}
    assert named("x", {"a": np.array([1.0, 2.0])}) == {"x.a.0": 1.0, "x.a.1": 2.0}
