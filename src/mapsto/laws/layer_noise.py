"""What the noise of a layer owes in training: a draw for each record, and the mean that evaluation has."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.laws import Trial
from ..core.random import derive
from .compare import Array, is_array, leaves, values
from .drivers import LayerDriver
from .hard_inputs import mapped

MANY = 128
"""Passes whose mean is compared with evaluation."""
SURE = 6.0
"""Standard errors that a mean may be off: it is by chance in two of a billion."""
ALIKE = 1e-4
"""How far apart, relative to the largest, numbers in float32 are that would be equal in exact arithmetic."""


def for_each_record(trial: Trial) -> None:
    """Demand that equal records of one batch get unequal noise, where it is of activations and not of weights."""
    driver: LayerDriver = trial.driver
    size, axis = _size(trial), int(trial.example.more.get("record_axis", 0))
    given = driver.inputs(trial, size)
    if trial.has("shared_noise") or size < 2 or not any(_counts(x, axis, size) for x in _arrays(given)):
        return
    of_weights = getattr(trial.subject.driver, "noise_of_weights", None)
    equal = mapped(given, lambda x: np.repeat(np.take(x, [0], axis), size, axis) if _counts(x, axis, size) else x)
    outputs = _passes(trial, equal, 32)
    for path, ys in outputs.items():
        if not _counts(ys[0], axis, size) or _close(ys, ys[0]):
            continue
        if any(not _close(y, np.take(y, [0], axis)) for y in ys):
            trial.exercised("records")
        elif of_weights is None or not of_weights(driver.build(trial, training=True), equal):
            trial.fail(
                f"{size} equal records of a batch get one draw of noise: {path} is the same for all, and another in each pass",
                first={"tensor": path},
                cause="noise whose shape has no axis of records; where that is meant, state tags={'shared_noise'}",
            )


def with_the_mean_of_evaluation(trial: Trial) -> None:
    """Demand that many passes in training average to the evaluation, where noise only multiplies what evaluation gives.

    That is where each number takes two values, of which one is without the part that is dropped and the other is that part
    by one factor for all, or where it is affine in its inputs (if it has noise of zeros too, then for those).
    """
    driver: LayerDriver = trial.driver
    given = driver.inputs(trial, _size(trial))
    if trial.has("unscaled_noise") or driver.draws(driver.build(trial), given):
        return
    true = _evaluated(trial, given)
    if any(_dropped(np.stack(ys), true[path]) is not None for path, ys in _passes(trial, given, 32).items()):
        for path, ys in _passes(trial, given, MANY).items():
            base = _dropped(np.stack(ys), true[path])
            if base is not None:
                _unbiased(trial, path, np.stack(ys), true[path], true[path] - base)
    elif _affine(trial):
        zeros = mapped(given, np.zeros_like)
        still = _evaluated(trial, zeros)
        if any(not _close(ys, still[path]) for path, ys in _passes(trial, zeros, 4).items()):
            given, true = zeros, still
        for path, ys in _passes(trial, given, MANY).items():
            _unbiased(trial, path, np.stack(ys), true[path], true[path])


def _unbiased(trial: Trial, path: str, drawn: Array, true: Array, part: Array) -> None:
    """Demand that what was drawn has the mean of evaluation, along the part of it that noise multiplies."""
    size = float((part.astype(np.float64) ** 2).sum())
    if not size or _close(drawn, drawn[0]):
        return
    parts = ((drawn - (true - part)) * part).astype(np.float64).reshape(len(drawn), -1).sum(1) / size
    mean, error = float(parts.mean()), float(parts.std(ddof=1)) / len(parts) ** 0.5
    trial.demand(
        abs(mean - 1) <= SURE * error + ALIKE,
        f"the mean of {len(drawn)} passes in training is {mean:.3g} times the evaluation",
        measured=mean, allowed=f"1 +- {SURE * error:.2g}", first={"tensor": path},
        cause="what is kept is not divided by the chance to be kept; where that is meant, state tags={'unscaled_noise'}",
    )  # fmt: skip


def _dropped(drawn: Array, true: Array) -> Array | None:
    """What is left of each number where its part is dropped; None where it has not two values, apart by one factor of the part.

    A number is b + m c (e - b): e in evaluation, b without the part, m drawn of 0 and 1, c one factor. Which of two values is
    b may be open (c and c / (c - 1) tell the same numbers), and then matters to no mean.
    """
    low, high = drawn.min(0), drawn.max(0)
    near = ALIKE * float(np.abs(drawn).max(initial=0.0))
    moved = high - low > 100 * near
    if moved.sum() < 4 or not (np.minimum(drawn - low, high - drawn) <= near).all():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.stack([(high - low) / (true - low), (high - low) / (high - true)])[:, moved]
    for factor in factors[:, int((high - low)[moved].argmax())]:
        fits = np.isclose(factors, factor, rtol=0.02, atol=0.0)
        if np.isfinite(factor) and factor > 0 and fits.any(0).all():
            base = true.copy()
            base[moved] = np.where(fits[0], low[moved], high[moved])
            return base
    return None


def _affine(trial: Trial) -> bool:
    """Whether a mixture of inputs gives the mixture of what they give, in evaluation and in training from one seed."""
    driver: LayerDriver = trial.driver
    one, other = (driver.inputs(trial, 3, stream=s) for s in ("inputs", "others"))
    if not _arrays(one) or not all(values(x).dtype.kind == "f" for x in _arrays(one)):
        return False
    mixed = tuple(_mixture(x, y) for x, y in zip(one, other, strict=True))
    for training in (False, True):
        a, b, c = (_call(driver, driver.build(trial, training=training), x, trial.seed) for x in (one, other, mixed))
        if not a or not all(_close(c[k], 0.3 * a[k] + 0.7 * b[k]) for k in a):
            return False
    return True


def _mixture(x: Any, y: Any) -> Any:
    if isinstance(x, np.ndarray):
        return (0.3 * x + 0.7 * y).astype(x.dtype)
    return type(x)(_mixture(a, b) for a, b in zip(x, y, strict=True)) if type(x) in (tuple, list) else x


def _passes(trial: Trial, given: tuple[Any, ...], number: int) -> dict[str, list[Array]]:
    """The floating outputs of fresh instances in training, from one seed each."""
    driver: LayerDriver = trial.driver
    made = [_call(driver, driver.build(trial, training=True), given, derive(trial.seed, "draw", i)) for i in range(number)]
    return {k: [y[k] for y in made] for k in made[0]}


def _evaluated(trial: Trial, given: tuple[Any, ...]) -> dict[str, Array]:
    return _call(trial.driver, trial.driver.build(trial), given, trial.seed)


def _call(driver: LayerDriver, layer: Any, given: tuple[Any, ...], seed: int) -> dict[str, Array]:
    made = driver.call(layer, given, seed)
    return {k: values(y) for k, y in made.items() if is_array(y) and values(y).dtype.kind == "f"}


def _size(trial: Trial) -> int:
    return next((n for n in (7, 3, 2) if n in trial.example.dynamic), 1)


def _arrays(given: Any) -> list[Any]:
    return [x for x in leaves(given).values() if is_array(x)]


def _counts(x: Any, axis: int, size: int) -> bool:
    return is_array(x) and values(x).ndim > axis and values(x).shape[axis] == size


def _close(ys: list[Array] | Array, other: Array) -> bool:
    largest = float(np.abs(other).max(initial=0.0))
    return bool((np.abs(np.asarray(ys) - other) <= ALIKE * largest).all())
