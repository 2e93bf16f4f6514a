"""Laws of optimizers of parameters that are other numbers than real ones in full precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..core.laws import Laws, Trial
from .compare import Array, differs, same, values
from .drivers import Optimizer, OptimizerDriver
from .optimizer_problem import named

laws = Laws("optimizer", driver=OptimizerDriver)

UPDATES = 300


@laws.law(
    "O9",
    "low_precision",
    priority=1,
    tolerance="T4",
    why="In bfloat16 an update below 1/256 of the weight is rounded away: training stops and the loss looks merely flat.",
    satisfy="Round stochastically, carry the rounding error (Kahan), or keep a float32 copy; or do not claim `low_precision`.",
    catches=("updates lost to rounding", "a compensation that is never added back"),
)
def low_precision(trial: Trial) -> None:
    """Declared `low_precision`: bfloat16 parameters of size one still move at lr = 1e-4, all but a share (`stuck`: 0.05)."""
    driver: OptimizerDriver = trial.driver
    driver.problem(trial)
    if not trial.has("low_precision"):
        trial.skip("it does not declare `low_precision`")
    allowed = float(trial.example.more.get("stuck", 0.05))
    with trial.case(dtype="bfloat16", lr=1e-4, steps=UPDATES):
        stuck = _stuck(trial, 1e-4)
        trial.demand(
            stuck <= allowed,
            f"{stuck:.0%} of the parameters never moved",
            measured=stuck,
            allowed=allowed,
            first={"tensor": "parameter 0"},
            cause="updates below half a unit in the last place are rounded away",
        )
        trial.control("at a rate of 1e-12 they are stuck", _stuck(trial, 1e-12) > max(allowed, 0.9))


def _stuck(trial: Trial, lr: float) -> float:
    """The share of parameters that are what they were after the updates."""
    optimizer: Optimizer = trial.driver.build(
        trial, dtype="bfloat16", parameters=[np.linspace(1, 1.9, 64).reshape(8, 8)], lr=lr
    )
    start = values(optimizer.parameters()[0])
    for _ in range(UPDATES):
        optimizer.update_with([np.ones_like(start)])
    return float((values(optimizer.parameters()[0]) == start).mean())


@laws.law(
    "O10",
    "complex",
    priority=2,
    tolerance="T1",
    why="A complex parameter is two real ones; a rule that squares without conjugating is another rule.",
    satisfy="Update both parts of parameters, gradients and state as real numbers (view_as_real).",
    catches=("a second moment g * g of a complex gradient",),
)
def complex_parameters(trial: Trial) -> None:
    """Declared `complex`: complex parameters move as the real ones that are their parts."""
    driver: OptimizerDriver = trial.driver
    problem = driver.problem(trial)
    if not trial.has("complex"):
        trial.skip("it does not declare `complex`")
    pairs = replace(problem, shapes=tuple((*s, 2) for s in problem.shapes))
    start = pairs.start()
    of_real = driver.build(trial, parameters=start)
    of_complex = driver.build(trial, dtype="complex128", parameters=[_joined(p) for p in start])
    for t in range(5):
        gradients = [pairs.gradient(t, i, p) for i, p in enumerate(of_real.parameters())]
        with trial.case(dtype="complex128", step=t + 1), trial.component("an update of complex parameters"):
            of_real.update_with(gradients)
            of_complex.update_with([_joined(g) for g in gradients])
            got = named([_parts(p) for p in of_complex.parameters()])
            want = named(of_real.parameters())
            same(trial, "complex against real", got, want, tolerance="T1", cause="a square without a conjugate")
    trial.control("the parameters moved", differs(named(of_real.parameters()), named(start)))


def _joined(pairs: Array) -> Array:
    return np.asarray(pairs[..., 0] + 1j * pairs[..., 1])


def _parts(numbers: Any) -> Array:
    return np.stack([numbers.real, numbers.imag], -1)
