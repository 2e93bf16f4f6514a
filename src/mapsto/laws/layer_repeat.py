"""Laws of repetition: the same seed gives the same bits, and modes differ where declared."""

from __future__ import annotations

import random

import numpy as np

from ..core.laws import Laws, Trial
from ..core.random import derive
from ..data.laws import streams
from .compare import differs, rounded, same, telling
from .drivers import LayerDriver
from .layer_inputs import controlled_by_inputs

laws = Laws("layer", "model", driver=LayerDriver)


def _disturb(number: int) -> None:
    """Move every stream that a seed of the framework does not reach."""
    random.seed(number)
    np.random.seed(number)


@laws.law(
    "L13",
    "rerun",
    priority=1,
    tolerance="T0",
    why="A result that a seed does not fix cannot be debugged, resumed or compared.",
    satisfy="Draw from the framework's generator alone, iterate over no sets, keep nothing from one call to the next.",
    catches=("noise from numpy.random", "weights drawn from Python's random", "a cache that the first call fills"),
)
def rerun(trial: Trial) -> None:
    """Under deterministic algorithms one seed gives one result, bit for bit: built again, run again, called again."""
    driver: LayerDriver = trial.driver
    driver.settle(trial)
    with driver.deterministic(), streams.kept():
        for training in (False, True):
            with trial.case(size=3, dtype="float32", mode="training" if training else "evaluation"):
                _twice(trial, driver, training)


def _twice(trial: Trial, driver: LayerDriver, training: bool) -> None:
    given = driver.inputs(trial, 3)
    _disturb(1)
    first = driver.build(trial, training=training)
    with trial.component("a pass under deterministic algorithms"):
        one = driver.see(trial, first, given)
    _disturb(2)
    second = driver.build(trial, training=training)
    _disturb(3)
    same(trial, "parameters built from the same seed", driver.parameters(second),
         driver.parameters(driver.build(trial, training=training)),
         cause="weights drawn from a stream that the framework's seed does not set")  # fmt: skip
    _disturb(4)
    two = driver.see(trial, second, given)
    cause = "numbers drawn from a stream that the framework's seed does not set"
    same(trial, "a second run from the same seed", two, one, cause=cause)
    if not training and not trial.has("stateful"):
        later = driver.build(trial)
        driver.see(trial, later, driver.inputs(trial, 2, stream="others"))
        said = "something kept from the call before; if meant, tags={'stateful'}"
        same(trial, "a call after another one", driver.see(trial, later, given), one, cause=said)
        same(trial, "the same call again", driver.see(trial, later, given), one, cause=said)
    if trial.has("stochastic") and not training:
        other = driver.see(trial, driver.build(trial), given, seed=derive(trial.seed, "another seed"))
        trial.demand(differs(other["output"], one["output"]), "it declares `stochastic`, and another seed gives the same",
                     cause="the seed is fixed inside, or nothing is drawn")  # fmt: skip
    if given:
        others = driver.see(trial, driver.build(trial, training=training), driver.inputs(trial, 3, stream="x"))
        controlled_by_inputs(trial, "other inputs differ", differs(others, one))


@laws.law(
    "L13b",
    "modes",
    priority=1,
    tolerance="T0",
    why="A layer that is silently noisy in training, or whose dropout never drops, is trained as another one than "
    "was designed.",
    satisfy="State tags={'mode_dependent'} where training and evaluation differ on purpose.",
    catches=("dropout that is off in training", "a branch on the mode left from debugging"),
)
def modes(trial: Trial) -> None:
    """Training and evaluation give the same output, unless declared or known to differ; declared, they do differ."""
    driver: LayerDriver = trial.driver
    driver.settle(trial)
    given = driver.inputs(trial, 3)
    seed = derive(trial.seed, "modes")
    results = []
    for training in (True, False):
        with trial.component("calling it"):
            results.append(
                driver.see(trial, driver.build(trial, training=training), given, seed=seed, backward=False)["output"]
            )
    apart = differs(*results)
    if apart and not trial.has("mode_dependent") and rounded(*results):
        apart = False  # such as weights that are folded into one in evaluation
    known = driver.differs_by_mode(driver.build(trial))
    if trial.has("mode_dependent"):
        trial.demand(apart, "it declares `mode_dependent`, and training and evaluation give the same output",
                     measured="no difference", allowed="a difference",
                     cause="what should act in training does not")  # fmt: skip
    elif apart and not known and not trial.has("stochastic"):
        trial.undecided("training and evaluation give different outputs and nothing says so: state tags={'mode_dependent'} in "
                        "its mapsto.example if that is meant, and look for a branch on the mode if not")  # fmt: skip
    trial.exercised("outputs compared between modes", telling(results[0]))
