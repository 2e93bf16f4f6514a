"""Laws of which parameters an update may touch: those without gradient, those of one group."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.laws import Laws, Trial, Violation
from .compare import differs, same
from .drivers import OptimizerDriver
from .optimizer_problem import Problem, finite, named

laws = Laws("optimizer", driver=OptimizerDriver)

MOVING = 12
"""Updates after which even a rule with a warm-up of its own (AdaShift: ten) has moved."""


# -- missing gradients --------------------------------------------------------------------------------------------------
@laws.law(
    "O3",
    "missing_gradients",
    priority=0,
    tolerance="T0",
    why="Frozen, unused and routed-past parameters have no gradient, and must not drift.",
    satisfy="Skip a parameter that has no gradient before anything else, decay included.",
    catches=("pytorch#100701", "weight decay on a parameter without gradient", "a norm over an empty tensor"),
)
def missing_gradients(trial: Trial) -> None:
    """A parameter whose gradient is None keeps its bits and its state; parameters of size zero are accepted."""
    driver: OptimizerDriver = trial.driver
    problem, optimizer = driver.problem(trial), driver.build(trial)
    rest, closure = len(problem.shapes) - 1, bool(problem.tags & {"needs_closure", "needs_graph"})
    with trial.case(dtype="float64", gradient="None", step="first and third"):
        start = named(optimizer.parameters())
        for t, without in enumerate(([rest], [], [rest], list(range(rest + 1)))):
            before, kept = named(optimizer.parameters()), optimizer.state_of(rest)
            with trial.component(f"an update without the gradient of {'all' if len(without) > 1 else 'one'}"):
                if len(without) <= rest or not closure:
                    optimizer.update(t, without)
            after = named(optimizer.parameters())
            for name in (f"parameter {i}" for i in without):
                same(
                    trial,
                    "a parameter without gradient",
                    {name: after[name]},
                    {name: before[name]},
                    cause="decay or momentum is applied without a gradient",
                )
            if rest in without and kept:
                same(trial, "the state of a parameter without gradient", optimizer.state_of(rest), kept)
        for t in range(4, MOVING):
            optimizer.update(t)
        trial.control("with a gradient it moves", differs(named(optimizer.parameters()), start))
    with trial.case(dtype="float64", shape=(0, 3)):
        optimizer = driver.build(trial, parameters=[*problem.start(), np.zeros((0, 3))])
        for t in range(2):
            with trial.component("an update with a parameter of size zero"):
                optimizer.update(t)
            finite(trial, named(optimizer.parameters()), "an update beside a parameter of size zero")


# -- groups ------------------------------------------------------------------------------------------------------------
@laws.law(
    "O4",
    "groups",
    priority=0,
    tolerance="T0",
    why="Decay is switched off for biases, and backbones learn slower, by groups: an option that is read once for all is "
    "ignored.",
    satisfy="Read every option from the group inside the loop over groups; tags={'across_parameters'} where updates depend "
    "on one "
    "another by design.",
    catches=("an option of the first group used for all", "lr=0 that does not freeze"),
)
def groups(trial: Trial) -> None:
    """Two groups with their own lr and weight decay equal two optimizers; an option of a group is that of the constructor; a
    group with lr=0 keeps its bits.
    """
    driver: OptimizerDriver = trial.driver
    problem = driver.problem(trial)
    if trial.has("one_group"):
        trial.skip("it takes one group only, as it declares")
    plain = driver.build(trial).options()
    if not isinstance(plain.get("lr"), float):
        trial.skip("its groups have no lr")
    choices: list[dict[str, Any]] = [{"lr": plain["lr"]}, {"lr": plain["lr"] * 3.0}]
    if isinstance(plain.get("weight_decay"), (int, float)):
        choices[0]["weight_decay"], choices[1]["weight_decay"] = 0.0, 0.2
    _frozen(trial, driver, problem, plain["lr"])
    if trial.has("across_parameters") or trial.has("stochastic"):
        return
    others = range(1, len(problem.shapes))
    both = driver.build(trial, groups=[([0], choices[0]), (others, choices[1])])
    one, other = driver.build(trial, groups=[([0], choices[0])]), driver.build(trial, groups=[(others, choices[1])])
    uniform = driver.build(trial, groups=[([0, *others], choices[0])])
    for t in range(MOVING):
        with trial.case(dtype="float64", step=t + 1, groups=str(choices)), trial.component("an update of two groups"):
            for optimizer in (both, one, other, uniform):
                optimizer.update(t)
            same(
                trial,
                "two groups against two optimizers",
                named(both.parameters()),
                named([one.parameters()[0], *other.parameters()[1:]]),
                cause="an option of one group is used for both, or an update depends on other parameters",
            )
    trial.control("the options matter", differs(named(both.parameters()), named(uniform.parameters())))
    for name, value in plain.items():
        if isinstance(value, float) and name != "lr":
            _read_from_group(trial, driver, name, value / 2 or 0.25, range(len(problem.shapes)))


def _read_from_group(trial: Trial, driver: OptimizerDriver, name: str, value: float, all_of_them: range) -> None:
    """An option does the same where a group states it as where the constructor is given it."""
    option: dict[str, Any] = {name: value}
    try:
        given = driver.build(trial, **option)
        grouped = driver.build(trial, groups=[(all_of_them, option)])
    except Violation:
        return  # the constructor takes no such value or name
    if given.options().get(name) != value:
        return  # what it keeps in its groups by this name is no option: a sum, a count
    with trial.case(dtype="float64", group=f"{name}={value:g}"), trial.component("an update of one group"):
        for t in range(3):
            given.update(t)
            grouped.update(t)
        same(
            trial,
            f"{name} of the group against {name} of the constructor",
            named(grouped.parameters()),
            named(given.parameters()),
            cause=f"{name} is read once for all, not from the group",
        )


def _frozen(trial: Trial, driver: OptimizerDriver, problem: Problem, lr: float) -> None:
    optimizer = driver.build(trial, groups=[([0], {"lr": lr}), (range(1, len(problem.shapes)), {"lr": lr})])
    optimizer.set_rate(lambda _: 0.0, first=True)
    start = named(optimizer.parameters())
    with trial.case(dtype="float64", lr=0.0):
        with trial.component("updates of a group with lr=0"):
            for t in range(MOVING):
                optimizer.update(t)
        after = named(optimizer.parameters())
        same(
            trial,
            "a group with lr=0",
            {"parameter 0": after["parameter 0"]},
            {"parameter 0": start["parameter 0"]},
            cause="lr=0 does not freeze: a floor, or an lr that is not read from the group",
        )
        if not trial.has("across_parameters"):
            trial.control("the other group moves", differs(after, start))
