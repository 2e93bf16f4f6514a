"""Laws of what depends on what in a layer: rows, masked positions, the future."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.laws import Laws, Trial
from ..core.random import derive
from .compare import Array, differs, is_array, same
from .drivers import LayerDriver

laws = Laws("layer", "model", driver=LayerDriver)

ROWS = 4


# -- rows --------------------------------------------------------------------------------------------------------------
@laws.law(
    "L7",
    "row_independence",
    priority=0,
    tolerance="T1",
    why="A record whose result depends on its neighbours in the batch gives other answers when served alone.",
    satisfy="Compute statistics over the axes of one record, and never over the batch (or do not declare `row_independent`).",
    catches=("a softmax over the batch axis", "a mean over the batch in a normalisation", "a view that mixes rows"),
)
def row_independence(trial: Trial) -> None:
    """Declared `row_independent`: other records in the batch, or none, change nothing of a record's outputs."""
    driver: LayerDriver = trial.driver
    driver.settle(trial)
    if not trial.has("row_independent"):
        trial.skip("it does not declare `row_independent`")
    axis = int(trial.example.more.get("record_axis", 0))
    for training in (False, True):
        mode = "training" if training else "evaluation"
        layer, given = driver.exact(trial, ROWS, training=training)
        other, seed = driver.inputs(trial, ROWS, dtype="float64", stream="others"), derive(trial.seed, "rows")
        random = driver.draws(driver.build(trial, "float64", training=training), given)
        if training and random:
            continue  # how many numbers it draws for one record may depend on the others (as in RReLU)
        base = driver.call(layer, given, seed)
        for row in (0, ROWS - 1):
            with trial.case(size=ROWS, dtype="float64", mode=mode, kept=row):
                mixed = tuple(_rows(x, y, row, axis) for x, y in zip(given, other, strict=True))
                got = driver.call(driver.build(trial, "float64", training=training), mixed, seed)
                kept = _row(row, axis)
                same(trial, f"record {row} among others", _watched(got, kept), _watched(base, kept), tolerance="T1",
                     cause="a reduction or a view over the record axis")  # fmt: skip
                trial.control("other records change their own outputs", differs(got, base))
            if not random and not training:
                with trial.case(size=1, dtype="float64", mode=mode, kept=row), trial.component("calling it with one record"):
                    alone = tuple(_row(row, axis)(x) if is_array(x) and x.ndim > axis else x for x in given)
                    got = driver.call(driver.build(trial, "float64"), alone, seed)
                    same(trial, f"record {row} alone", _watched(got, lambda y: y), _watched(base, kept), tolerance="T1",
                         cause="a reduction over the record axis")  # fmt: skip


def _watched(output: dict[str, Any], pick: Callable[[Array], Array]) -> dict[str, Any]:
    return {k: pick(y) for k, y in output.items() if is_array(y)}


def _row(row: int, axis: int) -> Callable[[Array], Array]:
    return lambda x: np.take(x, [row], axis) if x.ndim > axis and x.shape[axis] > row else x


def _rows(x: Any, other: Any, row: int, axis: int) -> Any:
    """The other values everywhere but in one row."""
    if not is_array(x) or x.ndim <= axis or x.shape[axis] != ROWS:
        return x
    mixed = np.moveaxis(other.copy(), axis, 0)
    mixed[row] = np.moveaxis(x, axis, 0)[row]
    return np.moveaxis(mixed, 0, axis)


# -- masks and time ----------------------------------------------------------------------------------------------------
@laws.law(
    "L7b",
    "mask_independence",
    priority=0,
    tolerance="T1",
    why="Padding that leaks into results makes them depend on the longest record of the batch.",
    satisfy="Apply the mask before every reduction over time, with -inf in softmax and a count of kept positions in means.",
    catches=("keras#23038", "transformers#31673", "a mean over padded positions", "a mask used upside down"),
)
def mask_independence(trial: Trial) -> None:
    """Declared `masked`: what stands at masked positions changes nothing at kept positions, nor in pooled outputs."""
    driver: LayerDriver = trial.driver
    example = driver.settle(trial)
    if not trial.has("masked"):
        trial.skip("it does not declare `masked`")
    if "mask" not in example.more:
        trial.undecided("say which input is the mask and what True means: mapsto.example(..., mask=1, mask_keeps=True)")
    index, keeps = int(example.more["mask"]), bool(example.more.get("mask_keeps", True))
    axis, time = int(example.more.get("record_axis", 0)), int(example.more.get("time_axis", 1))
    layer, given = driver.exact(trial, ROWS)
    other, seed = driver.inputs(trial, ROWS, dtype="float64", stream="others"), derive(trial.seed, "mask")
    mask = given[index]
    kept = lengths(mask)
    stated = kept if keeps else ~kept
    arguments = [*given]
    arguments[index] = stated.astype(mask.dtype)
    base = driver.call(layer, tuple(arguments), seed)
    positions = kept if axis == 0 else kept.T

    def replaced(x: Any, y: Any, where: Array) -> Any:
        if not is_array(x) or x.ndim < 2 or (x.shape[axis], x.shape[time]) != (ROWS, kept.shape[1]):
            return x
        return np.where(where.reshape(*where.shape, *[1] * (x.ndim - 2)), x, y)

    def watched(y: Array) -> Array:
        long = y.ndim > 1 and y.shape[:2] == positions.shape
        return y[positions] if long else y

    def calling(where: Array) -> dict[str, Any]:
        changed = [x if i == index else replaced(x, y, where) for i, (x, y) in enumerate(zip(arguments, other, strict=True))]
        return driver.call(driver.build(trial, "float64"), tuple(changed), seed)

    with trial.case(size=ROWS, dtype="float64", masked=f"lengths {kept.sum(1).tolist()}"):
        same(trial, "outputs at kept positions", _watched(calling(positions), watched), _watched(base, watched), tolerance="T1",
             cause="masked positions enter a reduction or an attention")  # fmt: skip
        trial.control(
            "kept positions change the outputs", differs(_watched(calling(~positions), watched), _watched(base, watched))
        )


def lengths(mask: Array) -> Array:
    """Kept positions of records of falling lengths: the whole, one less, ..., at least one."""
    rows, long = mask.shape
    ends = np.array([max(1, long - i) for i in range(rows)])
    return np.asarray(np.arange(long)[None, :] < ends[:, None])


@laws.law(
    "L7c",
    "causality",
    priority=0,
    tolerance="T1",
    why="A model that sees the future learns to copy it, and knows nothing when it has to generate.",
    satisfy="Mask attention above the diagonal, pad convolutions on the left only, take no statistics over time.",
    catches=("an off-by-one causal mask", "a convolution padded on both sides", "a mean over all of time"),
)
def causality(trial: Trial) -> None:
    """Declared `causal`: what comes after a position changes nothing up to it."""
    driver: LayerDriver = trial.driver
    driver.settle(trial)
    if not trial.has("causal"):
        trial.skip("it does not declare `causal`")
    time = int(trial.example.more.get("time_axis", 1))
    layer, given = driver.exact(trial, 2)
    other, seed = driver.inputs(trial, 2, dtype="float64", stream="others"), derive(trial.seed, "causal")
    base = driver.call(layer, given, seed)
    long = next((x.shape[time] for x in given if is_array(x) and x.ndim > time), 0)
    if long < 2:
        trial.undecided(
            f"its inputs have no time in axis {time}: say where, as mapsto.example(..., time_axis=1), with 3 or more steps"
        )
    for at in range(long - 1):
        with trial.case(size=2, dtype="float64", changed=f"after position {at}"):
            future = tuple(_after(x, y, at, time, long) for x, y in zip(given, other, strict=True))
            got = driver.call(driver.build(trial, "float64"), future, seed)

            def past(y: Array, at: int = at) -> Array:
                return np.take(y, range(at + 1), time) if y.ndim > time and y.shape[time] == long else y

            same(trial, f"outputs up to position {at}", _watched(got, past), _watched(base, past), tolerance="T1",
                 cause="a later position is read")  # fmt: skip
            trial.control("the future changes itself", differs(got, base))


def _after(x: Any, other: Any, at: int, time: int, long: int) -> Any:
    if not is_array(x) or x.ndim <= time or x.shape[time] != long:
        return x
    return np.concatenate([np.split(x, [at + 1], time)[0], np.split(other, [at + 1], time)[1]], time)
