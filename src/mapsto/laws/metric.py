"""Laws of metrics: their statistics add, in any order, over any cut; what is masked changes nothing; nothing is kept."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.laws import Laws, Trial
from ..core.parts import build
from ..core.random import derive
from ..core.values import use
from ..tasks.metric import Metric, Tally, is_counting
from .compare import Array, differs, same
from .truth import agrees, stated

laws = Laws("metric")

SIZE, MANY = 13, 60
CUTS: tuple[tuple[int, ...], ...] = ((1, 12), (5, 0, 8), (1,) * SIZE)
"""Records of parts: uneven, one of none, each alone."""
Given = tuple[Mapping[str, Array], Array, Array | None]


# -- what it is fed ----------------------------------------------------------------------------------------------------
def _families(rng: np.random.Generator, size: int) -> list[Given]:
    """What tasks predict, of which one suits a metric."""
    logits = rng.normal(size=(size, 7))
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = probability.argmax(1)
    words = np.array(["a", "cat", "sat", "on", "the", "mat", "here"], object)
    texts = np.array([" ".join(words[rng.integers(0, 7, 6)]) for _ in range(2 * size)], object)
    return [
        ({"label": label, "probability": probability}, np.where(rng.random(size) < 0.6, label, rng.integers(0, 7, size)), None),
        ({"value": rng.normal(size=size)}, rng.normal(size=size), None),
        ({"score": rng.normal(size=(size, 24))}, (rng.random((size, 24)) < 0.1).astype(int), None),
        ({"text": texts[:size]}, texts[size:], None),
        ({"value": rng.normal(size=size)}, np.stack([rng.integers(0, 5, size), rng.random(size) < 0.7], 1).astype(int), None),
        (
            {"label": (tokens := rng.integers(0, 3, (size, 5)))},
            np.where(rng.random((size, 5)) < 0.7, tokens, 0),
            rng.random((size, 5)) < 0.9,
        ),
    ]


def _metric(trial: Trial) -> Metric:
    """A fresh metric; not applicable where it is a function of a framework's arrays, or keeps sums of its own."""
    subject = trial.subject
    if subject.make is not None:
        made = subject.make()
    elif inspect.isclass(subject.target):
        made = build(use(subject.target, **trial.example.args), "metric", path=subject.label)
    else:
        made = subject.target
    if not is_counting(made):
        trial.skip("it gives pairs of a batch, or keeps sums of its own: the laws of the task judge it")
    found: Metric = made
    return found


def _given(trial: Trial, size: int = SIZE, stream: str = "given") -> Given:
    """Predictions, a target and a mask, as its author states or as found by what it reads."""
    seed = derive(trial.seed, stream, size)
    if trial.example.inputs is not None:
        made = trial.example.inputs(size, np.random.default_rng(seed))
        prediction, target, mask = (*made, None)[:3]
        return prediction, target, mask
    metric, tried = _metric(trial), []
    suiting = []
    for family in _families(np.random.default_rng(seed), size):
        if set(metric.reads) <= set(family[0]):
            suiting.append(family)
        tried += list(family[0])
    for prediction, target, mask in suiting[1:] and suiting:
        try:
            metric.count(copy.deepcopy(dict(prediction)), target.copy(), None if mask is None else mask.copy())
        except DataError:  # shapes that it refuses, as it says
            continue
        except Exception:  # noqa: BLE001  # the law tells
            break
        return prediction, target, mask
    if suiting:
        return suiting[0]
    return trial.undecided(
        f"it reads {', '.join(metric.reads)}, and no task here predicts that (there are {', '.join(tried)}); write beside it\n"
        f"  mapsto.example({trial.subject.label.rpartition(':')[2]}, inputs=lambda size, rng: ({{'field': ...}}, target))"
    )


def _part(given: Given, start: int, stop: int) -> Given:
    prediction, target, mask = given
    return {n: v[start:stop] for n, v in prediction.items()}, target[start:stop], None if mask is None else mask[start:stop]


def _counted(trial: Trial, metric: Metric, parts: list[Given]) -> Tally:
    tally = Tally({"it": metric})
    with trial.component("counting a batch"):
        for prediction, target, mask in parts:
            tally.count(0, copy.deepcopy(dict(prediction)), copy.deepcopy(target), copy.deepcopy(mask))
    return tally


def _told(trial: Trial, tally: Tally) -> dict[str, Any]:
    with trial.component("finishing"):
        found = tally.results(tally.totals([tally.state()]))
    if not all(isinstance(v, float) for v in found.values()):
        trial.fail(f"its result is {found!r:.100}, and numbers by name are wanted")
    return {name: np.float64(value) for name, value in found.items()}


# -- the laws ----------------------------------------------------------------------------------------------------------
@laws.law(
    "E1",
    "additivity",
    priority=0,
    tolerance="T1",
    why="An F1 that is averaged over batches is none, and a last batch of three records weighs as much as one of a thousand.",
    satisfy="Count sums in `count`, divide in `finish`; where no sum is enough, say keep = 'records' and give the rows.",
    catches=("GaNDLF#505", "KGCN#22", "netspresso-trainer#360", "anomalib#2003"),
)
def additivity(trial: Trial) -> None:
    """The result of parts of any size, one of no record among them, is that of the whole; other predictions give another."""
    given = _given(trial)
    whole = _told(trial, _counted(trial, _metric(trial), [given]))
    for sizes in CUTS:
        with trial.case(parts=sizes):
            edges = [0, *itertools.accumulate(sizes)]
            parts = [_part(given, a, b) for a, b in itertools.pairwise(edges)]
            same(trial, "result of the parts", _told(trial, _counted(trial, _metric(trial), parts)), whole, tolerance="T1")
    others = [_given(trial, stream=f"other {i}") for i in range(4)]
    differ = [_told(trial, _counted(trial, _metric(trial), [(other[0], given[1], given[2])])) for other in others]
    trial.control("other predictions give another result", any(d != whole for d in differ))


@laws.law(
    "E2",
    "order",
    priority=0,
    tolerance="T1",
    why="A ranking metric whose ties fall as records happen to stand rewards a model that says nothing.",
    satisfy="Let nothing depend on which record comes first: break ties by the values, or against the model.",
    catches=("anomalib#2003", "a sort that is stable on labels that stand in order"),
)
def order(trial: Trial) -> None:
    """The order of records, and of what is said alike of several of them, changes nothing."""
    prediction, target, mask = _given(trial, MANY)
    rng = np.random.default_rng(derive(trial.seed, "order"))
    tied = {n: np.round(v) if v.dtype.kind == "f" else v for n, v in prediction.items()}
    for name, fields in (("as drawn", prediction), ("rounded, so that many are alike", tied)):
        with trial.case(predictions=name):
            whole = _told(trial, _counted(trial, _metric(trial), [(fields, target, mask)]))
            for _ in range(3):
                p = rng.permutation(len(target))
                trial.control("records stand in another order", any(differs(v[p], v) for v in fields.values()))
                moved = {n: v[p] for n, v in fields.items()}, target[p], None if mask is None else mask[p]
                found = _told(trial, _counted(trial, _metric(trial), [moved]))
                same(trial, "result in another order", found, whole, tolerance="T1")


@laws.law(
    "E3",
    "masks",
    priority=0,
    tolerance="T1",
    why="Padding and ignored targets that are counted make a figure of the length of the batch.",
    satisfy="Take what the mask leaves out of every sum, of those that one divides by too.",
    catches=("mmsegmentation#1209", "torchmetrics#312", "segmentation_models.pytorch#546"),
)
def masks(trial: Trial) -> None:
    """What the mask leaves out may be anything; a mask of all is none; where records are left out, it is as without them."""
    prediction, target, _ = _given(trial)
    rng = np.random.default_rng(derive(trial.seed, "mask"))
    rows = np.arange(len(target)) % 3 != 0
    mask = np.broadcast_to(rows.reshape(-1, *[1] * (target.ndim - 1)), target.shape).copy()
    p = rng.permutation(len(target))
    metric = _metric(trial)

    def told(*given: Any) -> dict[str, Any]:
        return _told(trial, _counted(trial, metric, [given]))

    def odd(values: Array) -> Array:
        return np.where(rows.reshape(-1, *[1] * (values.ndim - 1)), values, values[p])

    whole = told(prediction, target, mask)
    with trial.case(mask="of every third record"):
        without = told({n: v[rows] for n, v in prediction.items()}, target[rows], None)
        same(trial, "result with records left out by the mask", whole, without, tolerance="T1")
        changed = told({n: odd(v) for n, v in prediction.items()}, odd(target), mask)
        same(trial, "result with other records left out", changed, whole, tolerance="T1")
    with trial.case(mask="of nothing"):
        every = told(prediction, target, np.ones_like(mask))
        same(trial, "result with a mask of all", every, told(prediction, target, None), tolerance="T1")
    draws = [told(*_given(trial, stream=f"mask {i}")[:2], m) for i in range(4) for m in (None, mask)]
    trial.control("the mask can change the result", any(a != b for a, b in itertools.pairwise(draws)))


@laws.law(
    "E4",
    "purity",
    priority=0,
    why="A metric that keeps counts between evaluations gets better (or worse) by the number of epochs.",
    satisfy="Keep nothing in `self`, write into none of the arrays that are given: the statistics are what `count` returns.",
    catches=("code2seq#112", "poutyne#72", "mxnet#11480", "torchmetrics#269"),
)
def purity(trial: Trial) -> None:
    """An evaluation by the same metric after others tells the same; what it is given, and the totals, stay as they were."""
    prediction, target, mask = _given(trial)
    metric = _metric(trial)
    first = _told(trial, _counted(trial, metric, [(prediction, target, mask)]))
    before = copy.deepcopy((dict(prediction), target))
    tally = Tally({"it": metric})
    with trial.component("counting a batch"):
        tally.count(0, dict(prediction), target, mask)
    same(
        trial, "what it is given", {"prediction": prediction, "target": target}, {"prediction": before[0], "target": before[1]}
    )
    totals = tally.totals([tally.state()])
    kept = copy.deepcopy(totals)
    with trial.component("finishing"):
        metric.finish(totals["it"])
        metric.panel(totals["it"])
    same(trial, "its totals", totals, kept)
    for i in range(3):
        other, due, _ = _given(trial, stream=f"other {i}")
        told = _told(trial, _counted(trial, metric, [(other, due[::-1], mask)]))
        trial.control("other evaluations tell something else", told != first)
    same(
        trial, "the result after other evaluations", _told(trial, _counted(trial, metric, [(prediction, target, mask)])), first
    )


@laws.law(
    "E5",
    "reference",
    priority=0,
    tolerance="T5",
    why="A metric that divides by the wrong count, or takes another average, tells a figure all the same.",
    satisfy="State it once more: mapsto.example(it, reference=lambda prediction, target: ...), such as scikit-learn's.",
    catches=("huggingface/evaluate#421", "torchmetrics#312"),
)
def reference(trial: Trial) -> None:
    """Its result is that of the stated `reference` of (prediction, target): a number, or several by name or in order."""
    truth = stated(trial, trial.example.more.get("reference"), "reference")
    seen: list[Any] = []
    for size in (SIZE, 1, 40):
        with trial.case(size=size):
            given = _given(trial, size, "reference")
            due = truth(given[0], given[1])
            found = _told(trial, _counted(trial, _metric(trial), [given]))
            wanted = list(due.values()) if isinstance(due, Mapping) else np.atleast_1d(due)
            trial.demand(len(wanted) == len(found), f"it gives {len(found)} numbers, and its reference {len(wanted)}")
            agrees(trial, found, {name: np.float64(v) for name, v in zip(found, wanted, strict=True)})
            seen.append(tuple(found.values()))
    trial.control("other records give another result", len(set(seen)) > 1)
