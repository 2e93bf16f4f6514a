"""Laws of the values of losses: nothing is no disaster, large logits stay finite, order is chance, bounds hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.laws import Laws, NotApplicable, Trial
from ..formulas.activations import log_softmax, sigmoid
from .compare import EPS, MAX, Array, cast, differs, leaves, max_error, same, values
from .drivers import LossDriver, LossValue
from .layer import SLOW, compare
from .layer_inputs import no_gradient, placed
from .loss_inputs import axis_of, domain, fixed, ignoring, is_float, records, with_ignored

laws = Laws("loss", driver=LossDriver)

SCALES = (20.0, 300.0, 1e4)
"""Times a normal: logits in ordinary, careless and broken training."""
DTYPES = ("float32", "float16", "bfloat16")


# -- gradients ---------------------------------------------------------------------------------------------------------
@laws.law(
    "C-L1",
    "gradients",
    priority=0,
    tolerance="T3",
    why="A wrong backward trains to something, only worse; no value of the loss tells it.",
    satisfy="Let the framework differentiate, or check a hand-written backward against finite differences in float64.",
    catches=("a custom backward that forgets a factor", "a detach within the loss"),
)
def gradients(trial: Trial) -> None:
    """Gradients of predictions and of its own parameters equal finite differences in float64."""
    driver: LossDriver = trial.driver
    if trial.has("surrogate_gradient"):
        trial.skip("its gradient is meant to be another one than its derivative, as it declares")
    driver.settle(trial)
    loss, given = driver.build(trial), driver.inputs(trial, 2)
    with trial.case(size=2, dtype="float64"), trial.component("differentiating it"):
        found = driver.look(trial, loss, given).gradients
        point = {k: x for k, x in leaves({f"input {i}": x for i, x in enumerate(given)}).items() if k in found}
        point |= {k: x for n, x in driver.parameters(loss).items() if (k := f"parameter {n}") in found}
        if not any(bool(np.any(found[k])) for k in point):
            no_gradient(trial)

        def moved(path: str, x: Array) -> float:
            own = {path.removeprefix("parameter "): x} if path.startswith("parameter ") else {}
            there = given if own else tuple(placed(g, f"input {i}", path, x) for i, g in enumerate(given))
            return float(driver.look(trial, loss, there, parameters=own or None).total)

        few = sum(x.size for x in point.values()) < SLOW
        for path, x in point.items():
            compare(trial, "gradient", path, found[path], x, lambda y, path=path: moved(path, y), each=few)
        trial.exercised("gradients", len(point))


# -- nothing -----------------------------------------------------------------------------------------------------------
@laws.law(
    "C2",
    "degenerate",
    priority=0,
    tolerance="T0",
    why="A batch whose targets are all ignored, or an empty shard, makes 0 / 0: one NaN gradient ends the run.",
    satisfy="Return (total, weight), both zero; or divide by max(count, 1); or raise an error that says so.",
    catches=("Automodel#3796", "pytorch#70348", "a mean over a mask that is empty", "the slope of a root at zero"),
)
def degenerate(trial: Trial) -> None:
    """No records, one record, targets that are all ignored, and real predictions that equal their targets give finite values
    and gradients (of the sum, where a mean states its weight), or an error that says why.
    """
    driver: LossDriver = trial.driver
    driver.settle(trial)
    found = ignoring(trial)
    cases: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    whole = driver.inputs(trial, 3)
    if found is not None:
        index, override = found
        cases.append(("all targets ignored", with_ignored(trial, whole, range(3), index), override))
        cases.append(("all but one ignored", with_ignored(trial, whole, range(1, 3), index), override))
    if not trial.has("across_records"):
        cases.append(("one record", records(trial, whole, [0]), {}))
    cases.append(("no records", records(trial, whole, []), {}))
    if (perfect := _perfect(trial, whole)) is not None:
        cases.append(("predictions that equal their targets", perfect, {}))
    for said, given, override in cases:
        with trial.case(targets=said, dtype="float64"):
            call = driver.build(trial, **override)
            if (weight := trial.example.more.get("weight")) is not None:
                call = driver.weighed(call, weight)
            try:
                seen = driver.look(trial, call, given)
            except Exception as error:  # noqa: BLE001  # an explicit error is one way to keep the law
                if len(str(error).strip()) < 10 or isinstance(error, ZeroDivisionError):
                    trial.fail(
                        f"{said}: {type(error).__name__}: {str(error)[:100]} does not say why", measured=str(error)[:100]
                    )
                trial.exercised("explicit errors")
                continue
            _finite(
                trial, said, seen, "an infinite slope at zero times zero" if given is perfect else "0 / 0: a mean over nothing"
            )
    trial.control("ordinary targets give a loss", bool(driver.look(trial, driver.build(trial), whole).total != 0))


def _perfect(trial: Trial, whole: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Predictions that equal what they are compared with, where these are real numbers of one shape."""
    if len(whole) != 2 or domain(trial) != "real" or trial.has("drawn_inputs_only"):
        return None
    prediction, target = whole
    alike = is_float(prediction) and is_float(target) and prediction.shape == target.shape
    return (target.astype(prediction.dtype), target) if alike else None


def _finite(trial: Trial, said: str, seen: LossValue, cause: str) -> None:
    found = {"total": seen.total, **{f"gradient of {k}": g for k, g in seen.gradients.items()}}
    if seen.weight is not None:
        found["weight"] = np.asarray(seen.weight)
    for name, value in found.items():
        bad = ~np.isfinite(value)
        trial.demand(
            not bool(bad.any()),
            f"{said}: its {name} is {float(value[bad].ravel()[0]) if bool(bad.any()) else 0}",
            measured="not finite",
            allowed="finite",
            first={"tensor": name},
            cause=cause,
        )


# -- extreme values ----------------------------------------------------------------------------------------------------
@laws.law(
    "C4",
    "extreme",
    priority=1,
    tolerance="T2",
    why="Logits of 100 are ordinary in half precision, and exp(12) is no float16: one overflow ends the run.",
    satisfy="Work from logits with log-softmax, log-sigmoid, log-sum-exp or softplus; never take the log of an exp.",
    catches=("exp overflow", "the log of a softmax that underflowed", "a square in float16"),
)
def extreme(trial: Trial) -> None:
    """Wherever the float64 value is finite and in range, so is that in float16, bfloat16 and float32, with its gradients."""
    driver: LossDriver = trial.driver
    driver.settle(trial)
    exercised = sum([_extreme(trial, driver, dtype, scale) for dtype in DTYPES for scale in SCALES])
    if not exercised:
        trial.skip("its framework has no kernels of it in these dtypes, or its domain has no extreme values")


def _extreme(trial: Trial, driver: LossDriver, dtype: str, scale: float) -> bool:
    targets, where = fixed(trial), domain(trial)
    given = driver.inputs(trial, 4, stream="extreme", dtype="float32")
    pushed = [x if i in targets or not is_float(x) else _pushed(x, where, scale) for i, x in enumerate(given)]
    wide = tuple(cast(x, dtype) if is_float(x) else x for x in pushed)
    try:
        true = driver.look(trial, driver.build(trial), wide)
    except Exception:  # noqa: BLE001  # outside its domain
        return False
    with trial.case(size=4, dtype=dtype, scale=scale):
        try:
            got = driver.look(trial, driver.build(trial, dtype), wide, dtype)
        except NotApplicable:  # the framework has no such dtype
            return False
        except (RuntimeError, NotImplementedError) as error:
            if driver.no_kernel(error):
                return False
            trial.fail(f"predictions {scale:g} times a normal in {dtype} raised {type(error).__name__}: {str(error)[:200]}")
        _in_range(trial, dtype, got, true, wide)
    return True


def _pushed(x: Array, domain: str, scale: float) -> Array:
    """Values as far out as the domain goes."""
    if domain == "probability":
        return sigmoid(np.log(x / (1 - x)) * np.float32(scale))
    if domain == "log_probability":
        return log_softmax(x * np.float32(scale))
    return x * np.float32(scale)


def _in_range(trial: Trial, dtype: str, got: LossValue, true: LossValue, wide: tuple[Any, ...]) -> None:
    top, eps = MAX[dtype] / 4, EPS[dtype]
    size = sum(float(np.abs(x).sum()) for x in wide if is_float(x))
    pairs = {
        "losses" if true.losses is not None else "total": (
            got.losses if got.losses is not None else got.total,
            true.losses if true.losses is not None else true.total,
        )
    }
    pairs |= {f"gradient of {k}": (got.gradients[k], g) for k, g in true.gradients.items()}
    for what, (low, theirs) in pairs.items():
        mine = values(low).astype(np.float64)
        kept = np.isfinite(theirs) & (np.abs(theirs) < top)
        bad = kept & ~np.isfinite(mine)
        trial.demand(
            not bool(bad.any()),
            f"its {what} is {_first(mine, bad)}, and {_first(theirs, bad)} in float64",
            measured=_first(mine, bad),
            allowed=_first(theirs, bad),
            first={"tensor": what},
            cause="overflow, or the log of zero",
        )
        if what.startswith("gradient") or not bool(kept.any()):
            continue
        allowed = 0.05 * np.abs(theirs) + 8 * eps * size
        off = kept & (np.abs(mine - theirs) > allowed)
        trial.demand(
            not bool(off.any()),
            f"its {what} is {_first(mine, off)}, and {_first(theirs, off)} in float64",
            measured=max_error(mine, theirs),
            allowed=float(allowed.max()),
            first={"tensor": what},
            cause="saturation: a probability that was rounded to 0 or 1",
        )


def _first(x: Array, where: Array) -> str:
    return f"{float(x[where].ravel()[0]):.6g}" if bool(where.any()) else ""


# -- permutation and bounds ---------------------------------------------------------------------------------------------
@laws.law(
    "C5",
    "permutation",
    priority=1,
    tolerance="T1",
    why="The order of records in a batch is chance; a loss that depends on it compares predictions with others' targets.",
    satisfy="Index predictions and targets alike; take no statistics along the records by position.",
    catches=("index misalignment", "a position that weighs more"),
)
def permutation(trial: Trial) -> None:
    """Records in another order give the same total and weight, and gradients (and unreduced losses) in that order."""
    driver: LossDriver = trial.driver
    driver.settle(trial)
    if trial.has("ordered"):
        trial.skip("the order of records matters, as it declares")
    size = 6
    given = driver.inputs(trial, size)
    order = [3, 0, 5, 1, 4, 2]
    with trial.case(size=size, dtype="float64", permutation=order), trial.component("its value in another order"):
        want, got = (driver.look(trial, driver.build(trial), x) for x in (given, records(trial, given, order)))
        same(
            trial,
            "the total in another order",
            {"total": got.total},
            {"total": want.total},
            tolerance="T1",
            cause="index misalignment",
        )
        trial.demand(got.weight == want.weight, f"the weight is {got.weight} in another order, and was {want.weight}")
        permuted = {k: np.take(g, order, axis_of(trial, k)) for k, g in want.gradients.items() if k.startswith("input ")}
        same(
            trial,
            "gradients in another order",
            {k: got.gradients[k] for k in permuted},
            permuted,
            tolerance="T1",
            cause="index misalignment",
        )
        if want.losses is not None and got.losses is not None and want.losses.shape[0] == size:
            same(trial, "losses in another order", {"losses": got.losses}, {"losses": want.losses[order]}, tolerance="T1")
    crossed = tuple(
        x if i in fixed(trial) else y for i, (x, y) in enumerate(zip(given, records(trial, given, order), strict=True))
    )
    if fixed(trial):
        trial.control(
            "predictions in another order than targets differ",
            differs(driver.look(trial, driver.build(trial), crossed).total, want.total),
        )


@laws.law(
    "C5b",
    "bounds",
    priority=1,
    tolerance="T4",
    why="A loss below its minimum, or above what it can be, is another formula.",
    satisfy="State mapsto.example(it, bounds=(0.0, None)) and, where there is one, minimum=lambda size, generator: inputs of "
    "the least loss.",
    catches=("a sign error in one term", "a minimum that is not at the target"),
)
def bounds(trial: Trial) -> None:
    """Values stay within the declared `bounds`, that of the declared `minimum` too, and none near its inputs is below it."""
    driver: LossDriver = trial.driver
    example = driver.settle(trial)
    if "bounds" not in example.more and "minimum" not in example.more:
        trial.skip("it declares neither `bounds` nor a `minimum`")
    low, high = example.more.get("bounds", (None, None))
    for number in range(8):
        with trial.case(draw=number, size=5, dtype="float64"):
            value = _per_weight(driver.look(trial, driver.build(trial), driver.inputs(trial, 5, stream=f"bounds {number}")))
            _within(trial, value, low, high)
    if "minimum" in example.more:
        best = driver.inputs(trial, 4, make=example.more["minimum"])
        at_best = driver.look(trial, driver.build(trial), best)
        least = _per_weight(at_best)
        with trial.case(at="the declared minimum", dtype="float64"):
            _within(trial, least, low, high)
        for number in range(8):  # down the gradient first, then anywhere
            rng = np.random.default_rng(number)
            moved = tuple(
                x
                if i in fixed(trial)
                else x + (0.1 * rng.standard_normal(x.shape) if number else -1e-3 * at_best.gradients[f"input {i}"])
                for i, x in enumerate(best)
            )
            value = _per_weight(driver.look(trial, driver.build(trial), moved))
            trial.demand(
                value >= least - 1e-9, f"near its minimum of {least:.6g} it is {value:.6g}", measured=value, allowed=least
            )


def _within(trial: Trial, value: float, low: float | None, high: float | None) -> None:
    inside = (low is None or value >= low - 1e-12) and (high is None or value <= high + 1e-12)
    trial.demand(inside, f"a value of {value:.6g} is not within {low} and {high}", measured=value, allowed=f"[{low}, {high}]")


def _per_weight(seen: LossValue) -> float:
    return float(seen.total) / (seen.weight or (seen.losses.size if seen.losses is not None else 1.0))
