"""Laws of losses, (prediction, target) -> (total, weight): parts add up, means say their weight, reductions agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.laws import Laws, Trial
from .compare import ATOL, RTOL, Array, differs, same
from .drivers import LossDriver, LossValue
from .loss_inputs import axis_of, fixed, has_reductions, ignoring, mean_name, parts, records, takes_reduction, with_ignored

laws = Laws("loss", driver=LossDriver)

CUTS: tuple[tuple[int, ...], ...] = ((1, 2), (7, 6), (1, 3, 9))
"""Records of parts: uneven, since parts of one size hide what a mean divides by."""


# -- parts add up ------------------------------------------------------------------------------------------------------
@laws.law(
    "C1",
    "additivity",
    priority=0,
    tolerance="T1",
    why="Micro-batches, ranks and last batches are parts of unequal size; a loss that is no sum over them trains on other "
    "gradients.",
    satisfy="Return (total, weight): the sum and what a mean divides by; or tags={'across_records'} where records depend on "
    "one another.",
    catches=("torchtune#1875", "mlx-lm#1413", "transformers#35203", "a weight that counts ignored targets"),
)
def additivity(trial: Trial) -> None:
    """Totals, weights and gradients of uneven parts add up to those of the whole, as stated (or by its stated weight)."""
    driver: LossDriver = trial.driver
    driver.settle(trial)
    if trial.has("across_records"):
        trial.skip("each record's loss depends on the others, as it declares")
    stated_loss = _stated(trial)
    for sizes in CUTS:
        given = _uneven(trial, sizes)
        with trial.case(parts=sizes, dtype="float64"), trial.component("the loss of a part"):
            pieces = parts(trial, given, sizes)
            whole = driver.look(trial, stated_loss, given)
            cut = [driver.look(trial, stated_loss, p) for p in pieces]
            if not any(bool(g.any()) for g in whole.gradients.values()):
                trial.undecided(
                    "it has no gradient: nothing that it returns depends on a prediction or on a parameter of its own, "
                    "so no gradient was compared"
                )
            _adds_up(trial, whole, cut, sizes)
    trial.control("parts of the whole differ from it", differs(cut[0].total, whole.total))


def _stated(trial: Trial) -> Any:
    """The loss as (total, weight), the way the engine would make it so."""
    driver: LossDriver = trial.driver
    _, override = ignoring(trial) or (None, {})
    plain = driver.build(trial, **override)
    first = driver.look(trial, plain, driver.inputs(trial, 2)).form
    if first != "scalar":
        return plain if first == "weighted" else driver.weighed(plain)
    if has_reductions(trial) and takes_reduction(trial, "none"):
        unreduced = driver.build(trial, reduction="none", **override)
        if driver.look(trial, unreduced, driver.inputs(trial, 2)).form == "unreduced":
            return driver.weighed(unreduced)
    weight = trial.example.more.get("weight", trial.example.more.get("known_weight"))
    if weight is None:
        trial.skip("it returns a scalar and its weight is not stated: loss.states_weight tells what that does")
    return driver.weighed(plain, weight)


def _uneven(trial: Trial, sizes: Sequence[int]) -> tuple[Any, ...]:
    """Inputs of all parts, with ignored targets in the last one only, where targets can be ignored."""
    driver: LossDriver = trial.driver
    given, found = driver.inputs(trial, sum(sizes)), ignoring(trial)
    if found is None or sizes[-1] < 2:
        return given
    last = range(sum(sizes[:-1]), sum(sizes))
    at = fixed(trial)[0]
    if given[at].ndim == 1:
        return with_ignored(trial, given, list(last)[: len(last) // 2], found[0])
    target = given[at].copy()
    for record in last:  # of sequences, another number of tokens in each
        target[record].reshape(-1)[: 1 + record % (target[record].size - 1)] = found[0]
    return (*given[:at], target, *given[at + 1 :])


def _adds_up(trial: Trial, whole: LossValue, cut: list[LossValue], sizes: Sequence[int]) -> None:
    total = np.sum([p.total for p in cut])[...]
    if whole.weight is not None:
        weight = sum(p.weight or 0.0 for p in cut)
        agrees = abs(weight - whole.weight) <= 1e-9 * max(1.0, abs(whole.weight))
        trial.demand(
            agrees,
            f"the weights of the parts are {[p.weight for p in cut]}, and that of the whole is {whole.weight}",
            measured=weight,
            allowed=whole.weight,
            first={"part": 0},
            cause=f"a factor of {weight / whole.weight:.6g}" if whole.weight else None,
        )
    ratio = float(total / whole.total) if float(whole.total) else float("nan")
    cause = f"the sum over parts of {list(sizes)} is {ratio:.6g} of the whole: a mean was taken somewhere"
    same(trial, "the total of the parts", {"total": total}, {"total": whole.total}, tolerance="T1", cause=cause)
    same(trial, "the gradients of the parts", _together(trial, cut), whole.gradients, tolerance="T1", cause=cause)


def _together(trial: Trial, cut: list[LossValue], scales: Sequence[float] = ()) -> dict[str, Array]:
    """Gradients of the parts: of inputs side by side, of the loss's own parameters summed."""
    scales = scales or [1.0] * len(cut)
    made = {}
    for path in cut[0].gradients:
        found = [p.gradients[path] * s for p, s in zip(cut, scales, strict=True)]
        of_records = path.startswith("input ") and found[0].ndim
        made[path] = np.concatenate(found, axis_of(trial, path)) if of_records else np.sum(found, axis=0)
    return made


@laws.law(
    "C1b",
    "states_weight",
    priority=0,
    tolerance="T1",
    why="A mean forgets what it divided by, so a mean over ranks or micro-batches of unequal size is another loss.",
    satisfy="Return (total, weight) or unreduced losses; or state what it divides by: mapsto.example(it, weight='records'), "
    "and use "
    "it through mean_of.",
    catches=("transformers#35203", "transformers#34242", "ms-swift#10081"),
)
def states_weight(trial: Trial) -> None:
    """What it returns says how much it weighs: a sum, unreduced losses, (total, weight), or a mean whose weight is stated."""
    driver: LossDriver = trial.driver
    driver.settle(trial)
    _, override = ignoring(trial) or (None, {})
    kind = driver.look(trial, driver.build(trial, **override), driver.inputs(trial, 2)).form
    if kind != "scalar" or trial.has("across_records"):
        trial.exercised(f"its results are {kind}" if kind != "scalar" else "it depends on the batch, as it declares")
        return
    for sizes in ((7, 6), (3, 10)):  # with ignored targets, one of them may happen to be even
        given = _uneven(trial, sizes)
        pieces = parts(trial, given, sizes)
        with trial.case(parts=sizes, dtype="float64"), trial.component("the loss of a part"):
            whole = driver.look(trial, driver.build(trial, **override), given)
            cut = [driver.look(trial, driver.build(trial, **override), p) for p in pieces]
            if _close(sum(float(p.total) for p in cut), whole.total):
                trial.exercised("it is a sum")
                return
            _says_weight(trial, whole, cut, pieces, sizes)


def _says_weight(
    trial: Trial, whole: LossValue, cut: list[LossValue], pieces: list[tuple[Any, ...]], sizes: tuple[int, int]
) -> None:
    """A mean over the stated weight, or else the ratios by which a mean of means is wrong."""
    weights = _candidates(trial, pieces)
    divides = {n: w for n, w in weights.items() if _close(_weighed(cut, w), whole.total)}
    if "weight" in trial.example.more:
        trial.demand(
            "stated" in divides,
            f"its mean is not over the stated weight {trial.example.more['weight']!r}",
            measured=_weighed(cut, weights["stated"]),
            allowed=float(whole.total),
            cause=f"it divides by {', '.join(divides) or 'something else'}",
        )
        return
    mean = _together(trial, cut, [0.5, 0.5])
    path = next(iter(whole.gradients))
    halves = zip(*(_halves(trial, path, x, sizes[0]) for x in (mean[path], whole.gradients[path])), strict=True)
    ratios = [_ratio(m, w) for m, w in halves]
    worst = max(abs(r - 1) for r in ratios)
    trial.demand(
        worst <= RTOL,
        f"it returns a mean that does not say its weight: averaged over parts of {sizes[0]} and {sizes[1]} records the "
        f"gradients are {ratios[0]:.4g} and {ratios[1]:.4g} of what they are for the whole",
        measured=worst,
        allowed=RTOL,
        first={"tensor": path},
        cause=f"a mean of means; it divides by {', '.join(divides)}: say weight={next(iter(divides))!r}"
        if divides
        else "a mean of means; what it divides by is none of records, elements and targets",
    )


def _halves(trial: Trial, path: str, value: Array, n: int) -> list[Array]:
    return np.split(value, [n], axis_of(trial, path))


def _ratio(got: Array, want: Array) -> float:
    kept = np.abs(want) > 1e-12
    return float(np.median(got[kept] / want[kept])) if bool(kept.any()) else 1.0


def _close(a: Any, b: Any) -> bool:
    return bool(abs(float(a) - float(b)) <= ATOL + RTOL * abs(float(b)))


def _weighed(cut: list[LossValue], weights: Sequence[float]) -> float:
    return sum(float(p.total) * w for p, w in zip(cut, weights, strict=True)) / sum(weights)


def _candidates(trial: Trial, pieces: list[tuple[Any, ...]]) -> dict[str, list[float]]:
    """What a mean may divide by, for each part."""
    target = next(iter(fixed(trial)), 0)
    index = (ignoring(trial) or (None, {}))[0]
    axis = axis_of(trial, "input 0")
    made: dict[str, list[float]] = {}
    if "weight" in trial.example.more and not isinstance(trial.example.more["weight"], str):
        weigh = trial.example.more["weight"]
        made["stated"] = [float(weigh(*(trial.driver.native(x) for x in (*p, None)[:2]))) for p in pieces]
    made["records"] = [float(p[0].shape[axis]) for p in pieces]
    made["elements"] = [float(p[target].size) for p in pieces]
    if index is not None:
        made["targets"] = [float((p[target] != index).sum()) for p in pieces]
    if isinstance(trial.example.more.get("weight"), str):
        made["stated"] = made.get(trial.example.more["weight"], made["elements"])
    return made


# -- reductions and ignored targets -------------------------------------------------------------------------------------
@laws.law(
    "C3",
    "reductions",
    priority=0,
    tolerance="T1",
    why="The sum divided by the count must be the mean, and an ignored target must be as if it were not there.",
    satisfy="Compute unreduced losses once, mask them, and derive sum and mean from them; count only what is kept.",
    catches=("unsloth-zoo#1023", "a mean that divides twice", "label smoothing that reaches ignored targets"),
)
def reductions(trial: Trial) -> None:
    """`none`, `sum` and `mean` agree, and ignored targets change nothing: neither value, nor weight, nor any gradient."""
    trial.driver.settle(trial)
    found = ignoring(trial)
    if not has_reductions(trial) and found is None:
        trial.skip("it has neither reductions nor ignored targets")
    if has_reductions(trial) and takes_reduction(trial, "sum"):
        _reductions(trial)
    elif has_reductions(trial) and found is None:
        trial.skip("it refuses other reductions than its own")
    if found is not None and not trial.has("across_records"):
        _ignored(trial, *found)


def _reductions(trial: Trial) -> None:
    driver: LossDriver = trial.driver
    index, override = ignoring(trial) or (None, dict[str, Any]())
    given = driver.inputs(trial, 7)
    if index is not None:
        given = with_ignored(trial, given, [1, 5], index)
    with trial.case(size=7, dtype="float64"), trial.component("its reductions"):
        total = driver.look(trial, driver.build(trial, reduction="sum", **override), given)
        plain = total
        if takes_reduction(trial, "none"):
            plain = driver.look(trial, driver.build(trial, reduction="none", **override), given)
            if plain.losses is None:
                trial.fail("without a reduction it returns a scalar", measured=plain.form, allowed="unreduced")
            same(trial, "the sum against none", _values(total), _values(plain), tolerance="T1", cause="another reduction")
        mean = driver.look(trial, driver.build(trial, reduction=mean_name(trial), **override), given)
        if (stated_mean := trial.example.more.get("mean")) is not None and plain.losses is not None:
            due = np.asarray(float(stated_mean(driver.native(plain.losses), tuple(map(driver.native, given)))))
            same(trial, "the mean", {"total": mean.total}, {"total": due}, tolerance="T1")
            return
        weights = {k: w[0] for k, w in _candidates(trial, [given]).items()}
        weights |= {"losses": float(plain.losses.size)} if plain.losses is not None else {}
        if index is not None:
            weights = {k: w for k, w in weights.items() if k in ("targets", "stated")}
        ratio = float(total.total / mean.total) if float(mean.total) else float("nan")
        near = [k for k, w in weights.items() if abs(ratio - w) <= 1e-9 * w]
        trial.demand(
            bool(near),
            f"the sum is {ratio:.9g} times the mean, and {_said(weights)} are due",
            measured=ratio,
            allowed=_said(weights),
            first={"tensor": "total"},
            cause=_twice(ratio, weights),
        )
        scaled = {k: g * ratio for k, g in mean.gradients.items()}
        same(trial, "gradients of the mean, times its weight", scaled, total.gradients, tolerance="T1")


def _said(weights: dict[str, float]) -> str:
    return " or ".join(f"{w:g} ({k})" for k, w in weights.items())


def _twice(ratio: float, weights: dict[str, float]) -> str | None:
    hit = next((k for k, w in weights.items() if abs(ratio - w * w) < 1e-6 * w * w), None)
    return f"it divides twice by {hit}" if hit else f"{ratio / next(iter(weights.values())):.6g} of the weight"


def _values(seen: LossValue) -> dict[str, Any]:
    return {"total": seen.total, **seen.gradients}


def _ignored(trial: Trial, index: int, override: dict[str, Any]) -> None:
    driver: LossDriver = trial.driver
    whole = driver.inputs(trial, 7)
    named = [r for r in ("none", "sum", mean_name(trial)) if takes_reduction(trial, r)] if has_reductions(trial) else [None]
    for reduction in named:
        chosen = {**override, **({"reduction": reduction} if reduction else {})}
        with (
            trial.case(size=7, ignored=[1, 5], dtype="float64", reduction=reduction),
            trial.component("its value with ignored targets"),
        ):
            got = driver.look(trial, driver.build(trial, **chosen), with_ignored(trial, whole, [1, 5], index))
            want = driver.look(trial, driver.build(trial, **chosen), records(trial, whole, [0, 2, 3, 4, 6]))
            left = {k: g[1] for k, g in got.gradients.items() if k.startswith("input ")}
            trial.demand(
                not any(bool(g.any()) for g in left.values()),
                "the gradient of an ignored target is not zero",
                measured=max(float(np.abs(g).max()) for g in left.values()),
                allowed=0.0,
                first={"tensor": "input 0", "index": [1]},
                cause="the mask comes after a reduction or is left out",
            )
            cause = (
                f"the value is {float(got.total / want.total):.6g} of what it is without them" if float(want.total) else None
            )
            same(
                trial,
                "the value with ignored targets",
                {"total": got.total},
                {"total": want.total},
                tolerance="T1",
                cause=cause,
            )
            if got.weight is not None and want.weight is not None:
                trial.demand(
                    abs(got.weight - want.weight) < 1e-9 * max(1.0, want.weight),
                    f"the weight is {got.weight} with two records ignored, and {want.weight} without them",
                    measured=got.weight,
                    allowed=want.weight,
                    cause="ignored targets are counted",
                )
    full = driver.look(trial, driver.build(trial, **override), whole)
    trial.control("those targets matter where they are not ignored", differs(full.total, got.total))
