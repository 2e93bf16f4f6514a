"""Laws of optimizers: the author's formula, a first update that descends, resuming."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.laws import Laws, Trial
from ..formulas.optimizers import Formula
from .compare import differs, dtype_of, is_array, max_error, same
from .drivers import Optimizer, OptimizerDriver
from .optimizer_problem import NOT_DENSE, finite, named

laws = Laws("optimizer", driver=OptimizerDriver)

STEPS = 10
"""Updates that are compared: RAdam changes its rule after the fifth."""
RESUMED = 6


# -- the formula -------------------------------------------------------------------------------------------------------
@laws.law(
    "O1",
    "formula",
    priority=0,
    tolerance="T1",
    why="A wrong bias correction or decay still descends, so no test of descent sees it.",
    satisfy="State the rule on float64 arrays beside it: mapsto.example(it, formula=f) with f(w, g, t, memory, **options) "
    "-> w, for one parameter at step t = 1, 2, ...; `memory` is a dict kept for it.",
    catches=("a bias correction with t - 1", "a first step with another rule", "weight decay applied after the update"),
)
def formula(trial: Trial) -> None:
    """The first ten updates equal the author's formula in float64, step by step."""
    driver: OptimizerDriver = trial.driver
    problem = driver.problem(trial)
    driver.build(trial)
    rule: Formula | None = trial.example.more.get("formula")
    if rule is None:
        trial.skip("no formula is stated: mapsto.example(..., formula=lambda w, g, t, memory, **options: ...)")
    if problem.tags & NOT_DENSE:
        trial.skip("its update is no function of dense gradients alone")
    takes = inspect.signature(trial.subject.target).parameters
    for variant in ({}, *(v for v in trial.example.more.get("variants", ()) if set(v) <= set(takes))):
        with trial.case(dtype="float64", options=", ".join(f"{k}={v}" for k, v in variant.items()) or "as stated"):
            _by_formula(trial, driver, rule, variant)


def _by_formula(trial: Trial, driver: OptimizerDriver, rule: Formula, variant: Mapping[str, Any]) -> None:
    problem, optimizer = driver.problem(trial), driver.build(trial, **variant)
    chosen, wanted = optimizer.options(), optimizer.parameters()
    start = named(wanted)
    memories: list[dict[str, Any]] = [{} for _ in wanted]
    for t in range(STEPS):
        given = [(w, problem.gradient(t, i, w)) for i, w in enumerate(wanted)]
        wanted = [np.asarray(rule(w, g, t + 1, m, **chosen)) for (w, g), m in zip(given, memories, strict=True)]
        with trial.case(step=t + 1), trial.component(f"update {t + 1}"):
            optimizer.update(t)
            got, want = named(optimizer.parameters()), named(wanted)
            same(trial, f"update {t + 1}", got, want, tolerance="T1", cause=_bias(got, want, start, t + 1))
    trial.control("the parameters moved", differs(named(optimizer.parameters()), start))


def _bias(got: dict[str, Any], want: dict[str, Any], start: dict[str, Any], step: int) -> str | None:
    """What the ratio of the first updates tells."""
    if step > 1:
        return f"the first {step - 1} update(s) are right: a rule that changes with the step"
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.concatenate([((got[k] - start[k]) / (want[k] - start[k])).ravel() for k in got])
    spread = float(ratios.max() - ratios.min())
    return f"the first update is {float(ratios.mean()):.6g} of what it should be" if spread < 1e-6 else None


@laws.law(
    "O1b",
    "descends",
    priority=0,
    tolerance="T4",
    why="An update that is not a number, or goes uphill, ends the training before it begins.",
    satisfy="Guard divisions (eps inside or beside the root), and subtract the step; tags={'first_update_free'} where this "
    "is meant.",
    catches=("0 / 0 in the first bias correction", "a sign error", "a division by the norm of a zero gradient"),
)
def descends(trial: Trial) -> None:
    """The first update is finite and not uphill, zero gradients give finite updates, and thirty steps stay finite."""
    driver: OptimizerDriver = trial.driver
    problem, optimizer = driver.problem(trial), driver.build(trial)
    before = optimizer.parameters()
    slopes = [problem.gradient(0, i, p) for i, p in enumerate(before)]
    with trial.case(dtype="float64", step=1), trial.component("the first update"):
        optimizer.update(0)
    moved = [after - b for after, b in zip(optimizer.parameters(), before, strict=True)]
    finite(trial, named(moved), "the first update")
    if not trial.has("first_update_free"):
        uphill = sum(float((d * g).sum()) for d, g in zip(moved, slopes, strict=True))
        uphill = -uphill if optimizer.options().get("maximize") else uphill
        trial.demand(
            uphill <= 0.0,
            f"the first update goes uphill: its product with the gradient is {uphill:.3g}",
            measured=uphill,
            allowed="at most 0",
            first={"step": 1},
            cause="a sign",
        )
    with trial.case(dtype="float64", steps=30), trial.component("thirty updates"):
        for t in range(1, 30):
            optimizer.update(t)
    finite(trial, named(optimizer.parameters()), "thirty updates")
    if not problem.tags & NOT_DENSE:
        with trial.case(dtype="float64", gradient="zero"):
            still = driver.build(trial)
            for _ in range(2):
                with trial.component("an update with gradients of zero"):
                    still.update_with([np.zeros_like(p) for p in before])
            finite(trial, named(still.parameters()), "an update with gradients of zero")


# -- resuming ----------------------------------------------------------------------------------------------------------
@laws.law(
    "O2",
    "resume",
    priority=0,
    tolerance="T0",
    why="What is not saved is lost when a run goes on from a checkpoint, and the run is another one from there.",
    satisfy="Save all that later updates depend on: what is kept of each parameter, and the options of the groups.",
    catches=("torchtitan#4615", "davda54/sam#39", "a step count in an attribute"),
)
def resume(trial: Trial) -> None:
    """Saved after m updates and loaded over fresh parameters, it goes on with the bits of the run that was not interrupted."""
    for dtype in ("float64", "float32"):
        with trial.case(dtype=dtype):
            _resumed(trial, dtype)


@laws.law(
    "O2b",
    "resume_low_precision",
    priority=0,
    tolerance="T0",
    why="State in float32 beside bfloat16 weights is there for its precision; a framework that loads it may cast it to the "
    "weights' dtype.",
    satisfy="Put state back in the dtypes in which it was saved.",
    catches=("pytorch#43706",),
)
def resume_low_precision(trial: Trial) -> None:
    """With bfloat16 parameters it resumes bitwise too, its state in the dtypes it had."""
    with trial.case(dtype="bfloat16"):
        optimizer = trial.driver.build(trial, dtype="bfloat16")
        try:
            for t in range(2):
                optimizer.update(t)
        except RuntimeError as error:
            trial.skip(f"it does not run with bfloat16 parameters: {str(error)[:160]}")
        _resumed(trial, "bfloat16")


def _resumed(trial: Trial, dtype: str) -> None:
    optimizer = _visible(trial, dtype)
    saved: list[tuple[list[Any], Any, dict[str, Any]]] = []
    for t in range(RESUMED):
        if t == 2:
            optimizer.set_rate(_halved)
        with trial.component(f"update {t + 1}"):
            optimizer.update(t)
        with trial.component("saving its state"):
            saved.append((optimizer.parameters(), optimizer.save(), optimizer.state()))
    trace = [named(parameters) for parameters, _, _ in saved]
    last, cold_differs = optimizer.state(), False
    for m in range(1, RESUMED):
        with trial.case(saved_after=m):
            held, written, kept = saved[m - 1]
            again: Optimizer = trial.driver.build(trial, dtype=dtype, parameters=held)
            with trial.component("loading its state"):
                again.load(written)
            same(trial, "the state after loading", again.state(), kept, cause=_cast(again.state(), kept))
            _go_on(trial, again, m, trace)
            same(trial, "the state at the end", again.state(), last)
            without = _visible(trial, dtype, held)
            if m > 2:
                without.set_rate(_halved)
            _go_on(None, without, m, trace)
            cold_differs |= differs(named(without.parameters()), trace[-1])
    if optimizer.has_state():
        trial.control("without the state it differs", cold_differs)


def _go_on(trial: Trial | None, optimizer: Optimizer, m: int, trace: list[dict[str, Any]]) -> None:
    for t in range(m, RESUMED):
        if t == 2:
            optimizer.set_rate(_halved)
        optimizer.update(t)
        if trial is not None:
            got = named(optimizer.parameters())
            same(trial, f"update {t + 1} after a restore", got, trace[t], cause="state that is not in what it saves")


def _visible(trial: Trial, dtype: str, parameters: list[Any] | None = None) -> Optimizer:
    """A fresh optimizer, with rates whose updates bfloat16 does not round away."""
    made: Optimizer = trial.driver.build(trial, dtype=dtype, parameters=parameters)
    if dtype == "bfloat16":
        made.set_rate(lambda lr: max(lr, 0.05))
    return made


def _halved(lr: float) -> float:
    """What a schedule would do."""
    return lr * 0.5


def _cast(got: dict[str, Any], want: dict[str, Any]) -> str | None:
    for key, value in want.items():
        other = got.get(key)
        if is_array(value) and is_array(other) and dtype_of(other) != dtype_of(value):
            return f"loading casts {key} from {dtype_of(value)} to {dtype_of(other)} (error {max_error(other, value):.2g})"
    return None
