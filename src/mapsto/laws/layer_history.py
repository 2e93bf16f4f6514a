"""Laws of what a layer remembers: a call depends on its inputs, its state and the seed, and not on what was called before."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.laws import Laws, Trial
from ..core.random import derive
from .compare import Array, differs, is_array, leaves, same, values
from .drivers import LayerDriver
from .hard_inputs import mapped
from .layer_noise import for_each_record, with_the_mean_of_evaluation

laws = Laws("layer", "model", driver=LayerDriver)

DRAWS = 32
"""Passes of which one must differ: a branch of a record that is rarely dropped is often kept in all of a few."""


@laws.law(
    "L18",
    "history",
    priority=0,
    tolerance="T0",
    why="Runs evaluate between training steps, and hold several instances and sizes; a layer that remembers any of it trains "
    "and answers as in no test of its author.",
    satisfy="Keep caches by all that they depend on, in the instance and not in the class; undo in train() what eval() does.",
    catches=(
        "weights merged in eval() and never parted",
        "a mask cached for the first length",
        "xformers#728",
        "a table that all instances share",
    ),
)
def history(trial: Trial) -> None:
    """Evaluations between training passes, other sizes and lengths, another instance and a backward pass change nothing of
    what follows.
    """
    driver: LayerDriver = trial.driver
    example = driver.settle(trial)
    if trial.has("stateful"):
        trial.skip("it keeps something from one call to the next on purpose, as it declares")
    sizes = [n for n in (3, 2, 7, 1) if n in example.dynamic] or [*example.dynamic[:1], 3][:1]
    first = driver.inputs(trial, sizes[0])
    others = [driver.inputs(trial, n, stream="others") for n in sizes]
    with trial.component("a pass"):
        alone = _see(trial, driver.build(trial), first)
        for size, given in zip(sizes, others, strict=True):
            with trial.case(before=f"an evaluation of {size} records", dtype="float32"):
                layer = driver.build(trial)
                _see(trial, layer, given)
                same(trial, "an evaluation after another", _see(trial, layer, first), alone, cause="a cache of an earlier call")
        for axis, given in _lengths(trial, first):
            _after_other_lengths(trial, axis, first, alone, given)
        with trial.case(before="another instance was trained and evaluated"):
            layer, other = driver.build(trial), driver.build(trial, stream="another build")
            _see(trial, layer, others[0])
            _trained(trial, driver, other, others[0])
            _see(trial, other, first)
            cause = "something that instances share: an attribute of the class, or of a module"
            same(trial, "an evaluation beside another instance", _see(trial, layer, first), alone, cause=cause)
        if not trial.has("evaluation_only"):
            _evaluated_between(trial, driver, first, others[0])
    trial.control("other inputs differ", not first or differs(_see(trial, driver.build(trial), others[0]), alone))


def _lengths(trial: Trial, given: Any) -> Iterator[tuple[str, Any]]:
    """The inputs shorter and longer by some along each axis but that of records, where they have one of an equal length."""
    records = int(trial.example.more.get("record_axis", 0))
    found = [x for x in leaves(given).values() if is_array(x)]
    for axis in range(max((values(x).ndim for x in found), default=0)):
        long = next((values(x).shape[axis] for x in found if values(x).ndim > axis), 0)
        if axis == records or long < 2:
            continue
        for said, to in (("shorter", max(1, long // 2)), ("longer", 2 * long + 1)):

            def one(x: Array, axis: int = axis, long: int = long, to: int = to) -> Array:
                fits = x.ndim > axis and x.shape[axis] == long
                return np.take(x, np.arange(to) % long, axis) if fits else x

            yield f"{said} along axis {axis}", mapped(given, one)


def _after_other_lengths(trial: Trial, said: str, first: Any, alone: Any, given: Any) -> None:
    """Either of two lengths after the other, where a fresh layer takes both."""
    driver: LayerDriver = trial.driver
    try:
        other = _see(trial, driver.build(trial), given)
    except Exception:  # noqa: BLE001  # it has one length, as features have
        return
    for what, before, then, want in (
        (f"inputs {said}", given, first, alone),
        ("the inputs as drawn", first, given, other),
    ):
        with trial.case(before=f"an evaluation of {what}", other=said, dtype="float32"):
            layer = driver.build(trial)
            _see(trial, layer, before)
            got, due = ({k: v for k, v in seen.items() if k != "buffer"} for seen in (_see(trial, layer, then), want))
            same(trial, "an evaluation after one of another length", got, due,
                 cause="a table, mask or length that is kept from an earlier call")  # fmt: skip


def _evaluated_between(trial: Trial, driver: LayerDriver, first: Any, other: Any) -> None:
    """Training passes, with and without evaluations among them, and the evaluation after both."""
    straight, broken = driver.build(trial), driver.build(trial)
    passes = [_trained(trial, driver, straight, given) for given in (first, other)]
    _see(trial, broken, other)
    one = _trained(trial, driver, broken, first)
    _see(trial, broken, other)
    two = _trained(trial, driver, broken, other)
    cause = "what eval() or an evaluation does is not undone when it trains again"
    with trial.case(sequence="evaluation, training, evaluation, training"):
        same(trial, "training passes with evaluations between", [one, two], passes, cause=cause)
        driver.set_mode(straight, training=False)
        driver.set_mode(broken, training=False)
        same(trial, "the evaluation after them", _see(trial, broken, first), _see(trial, straight, first), cause=cause)


def _see(trial: Trial, layer: Any, given: Any) -> Any:
    driver: LayerDriver = trial.driver
    driver.set_mode(layer, training=False)
    return driver.see(trial, layer, given, seed=derive(trial.seed, "history"))


def _trained(trial: Trial, driver: LayerDriver, layer: Any, given: Any) -> Any:
    driver.set_mode(layer, training=True)
    return driver.see(trial, layer, given, seed=derive(trial.seed, "history in training"))


@laws.law(
    "L19",
    "fresh_noise",
    priority=0,
    tolerance="T0",
    why="Dropout that drops the same units in every step, or of all records, regularises little or nothing; unscaled, it "
    "trains another layer than is evaluated.",
    satisfy="Draw anew in each training pass and for each record (or state tags={'shared_noise'}), from the framework's "
    "generator; divide what is kept by the chance to be kept (or state tags={'unscaled_noise'}).",
    catches=(
        "torch.manual_seed within forward",
        "a mask that is drawn once and kept",
        "pytorch-image-models#2118",
        "theanets#123",
    ),
)
def fresh_noise(trial: Trial) -> None:
    """A layer that draws in training gives another result for another seed, in the next pass, and for each record; what it
    multiplies by noise has the mean that evaluation gives.
    """
    driver: LayerDriver = trial.driver
    driver.settle(trial)
    given = driver.inputs(trial, 3)
    layer = driver.build(trial, training=True)
    known = driver.differs_by_mode(layer)
    if not known and not driver.draws(layer, given) and not trial.has("mode_dependent"):
        trial.skip("it draws nothing in training")
    if not driver.draws(driver.build(trial, training=True), given):
        trial.skip("what differs between its modes draws nothing")
    with trial.case(size=3, mode="training"), trial.component("a training pass"):

        def varies(made: Callable[[], Any]) -> bool:
            passes = (
                driver.see(trial, made(), given, seed=derive(trial.seed, "noise", i), backward=False)["output"]
                for i in range(DRAWS)
            )
            first = next(passes)
            return any(differs(one, first) for one in passes)

        def moved() -> Any:
            layer, _ = driver.used(trial, 3)
            driver.set_mode(layer, training=True)
            return layer

        trial.demand(
            varies(lambda: driver.build(trial, training=True)) or varies(moved),  # of weights that start at zero nothing shows
            f"{DRAWS} seeds give one result in training",
            cause="the seed is set inside, or what it draws is not used",
        )
        trial.demand(
            varies(lambda: layer) or varies(functools.partial(lambda one: one, moved())),
            f"{DRAWS} passes of one instance give one result in training, whatever the seed",
            cause="what was drawn first is kept",
        )
        for_each_record(trial)
        with_the_mean_of_evaluation(trial)
