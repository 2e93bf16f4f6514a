"""Laws of layers and models, x -> y: gradients are those of finite differences, and what is saved is everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..core.laws import Laws, Trial
from ..core.random import derive
from .compare import EPS, ROUNDINGS, Array, differs, leaves, ratio_cause, same
from .drivers import LayerDriver
from .layer_inputs import no_gradient, placed

laws = Laws("layer", "model", driver=LayerDriver)

SLOW = 400
"""Numbers up to which every element is compared with a finite difference; beyond, a random direction of each tensor is."""
STEP, ATOL, RTOL = 1e-6, 1e-5, 1e-3
COARSE = 2.0**-5
"""The step, and the relative error that is allowed, where what is differentiated computes in float32."""
"""T3: what is added and taken away, and how far the difference may be off (the defaults of `torch.autograd.gradcheck`)."""


# -- gradients ---------------------------------------------------------------------------------------------------------
@laws.law(
    "L1",
    "gradients",
    priority=0,
    tolerance="T3",
    why="A wrong backward trains to something, only worse; no shape or loss check sees it.",
    satisfy="Let the framework differentiate, or hold a hand-written backward pass against finite differences in float64.",
    catches=("a custom autograd.Function whose backward forgets a factor", "a detach in the middle of a forward pass"),
)
def gradients(trial: Trial) -> None:
    """Gradients with respect to inputs and parameters equal finite differences in float64, in evaluation and in training."""
    driver: LayerDriver = trial.driver
    if trial.has("surrogate_gradient"):
        trial.skip("its gradient is meant to be another one than its derivative, as it declares")
    if trial.has("reentrant"):
        trial.skip("its gradients are given to backward() alone, as it declares")
    for training in (False, True):
        with trial.case(size=2, dtype="float64", mode="training" if training else "evaluation"):
            layer, given = driver.exact(trial, 2, training=training)
            _against_differences(trial, layer, given)


@laws.law(
    "L1b",
    "double_gradients",
    priority=1,
    tolerance="T3",
    why="Gradient penalties, Hessian products and meta-learning differentiate a backward pass.",
    satisfy="Write a backward pass of your own with differentiable operations, or do not declare the tag.",
    catches=("a backward that saves detached or numpy values",),
)
def double_gradients(trial: Trial) -> None:
    """Second derivatives equal finite differences of the first, where `twice_differentiable` is declared."""
    if not trial.has("twice_differentiable"):
        trial.skip("it does not declare `twice_differentiable`")
    driver: LayerDriver = trial.driver
    with trial.case(size=2, dtype="float64", mode="evaluation"):
        layer, given = driver.exact(trial, 2)
        with trial.component("differentiating its gradient"):
            _against_differences(trial, layer, given, order=2)


def _against_differences(trial: Trial, layer: Any, given: tuple[Any, ...], *, order: Literal[1, 2] = 1) -> None:
    """What the driver tells of derivatives of an order against central differences of one order less, tensor by tensor."""
    driver: LayerDriver = trial.driver
    seed = derive(trial.seed, "gradients")
    _, found = driver.total(trial, layer, given, seed=seed, order=order)
    if not found:
        no_gradient(trial)
    known = leaves({f"input {i}": x for i, x in enumerate(given)})
    known |= {f"parameter {n}": x for n, x in driver.parameters(layer).items()}
    if odd := sorted(found.keys() - known.keys()):
        trial.undecided(f"its driver's `total` tells gradients of {', '.join(odd)}; there are {', '.join(known)}")
    point = {path: x for path, x in known.items() if path in found}

    def moved(path: str, x: Array) -> float:
        own = {path.removeprefix("parameter "): x} if path.startswith("parameter ") else {}
        there = given if own else tuple(placed(g, f"input {i}", path, x) for i, g in enumerate(given))
        return driver.total(trial, layer, there, seed=seed, parameters=own, gradients=False, order=order)[0]

    few = sum(x.size for x in point.values()) < (SLOW if order == 1 else SLOW // 4)
    what = "gradient" if order == 1 else "second derivative"
    for path, x in point.items():
        compare(trial, what, path, found[path], x, lambda y, path=path: moved(path, y), each=few)
    trial.exercised(f"{what}s", len(point))


def compare(trial: Trial, what: str, path: str, found: Array | None, x: Array, value: Any, *, each: bool) -> None:
    """The derivatives by one tensor against central differences, element by element or along one direction."""
    ways = _directions(x) if each else [_random_direction(x, trial.seed)]
    got, want = _along(found, ways), _differences(value, x, ways, STEP)
    off = np.abs(got - want) - ATOL - RTOL * np.abs(want)
    if not bool((off > 0).any() | np.isnan(off).any()) or _rounded(value, x, found, ways, want):
        return
    at = int(np.nanargmax(off)) if not np.isnan(off).all() else 0
    missing = not got.any() and bool(want.any())
    flat = bool(got.any()) and not want.any()
    ratio = f"its {what} is {got[at] / want[at]:.4g} of what it should be" if abs(want[at]) > 1e-6 else ratio_cause(got, want)
    trial.fail(
        f"the {what} of {path} is {got[at]:.6g}, and {want[at]:.6g} by finite differences",
        measured=float(abs(got[at] - want[at])),
        allowed=f"{ATOL} + {RTOL} |x|",
        first={"tensor": path.removeprefix("parameter ")},
        cause=f"its {what} is missing: cut off or not returned"
        if missing
        else "the output is flat there; where an estimator is meant (straight-through), state tags={'surrogate_gradient'}"
        if flat
        else ratio,
    )


def _along(found: Array | None, ways: Sequence[Array]) -> Array:
    return np.asarray([float(np.real(np.sum(np.conj(found) * way))) if found is not None else 0.0 for way in ways])


def _differences(value: Any, x: Array, ways: Sequence[Array], step: float) -> Array:
    return np.asarray([(value(np.asarray(x + step * w)) - value(np.asarray(x - step * w))) / (2 * step) for w in ways])


def _rounded(value: Any, x: Array, found: Array | None, ways: Sequence[Array], told: Array) -> bool:
    """Whether small differences tell of rounding in float32, since what is differentiated casts to it: another small step tells
    something else, and along all elements at once, by a step that rises above rounding, the derivatives are right.
    """
    if found is None or not np.any(found) or np.iscomplexobj(x):
        return False
    other = _differences(value, x, ways, 3 * STEP)
    if bool((np.abs(other - told) <= ATOL + RTOL * np.abs(told)).all()):
        return False
    drawn = np.random.default_rng(x.size).integers(0, 2, x.shape) * 2.0 - 1.0
    signs = [np.sign(np.asarray(found, np.float64)), np.asarray(drawn)]
    got, want = _along(found, signs), _differences(value, x, signs, COARSE)
    rounding = ROUNDINGS * EPS["float32"] * abs(value(x)) / COARSE
    return bool((np.abs(got - want) <= ATOL + rounding + COARSE * np.abs(got).max()).all())


def _directions(x: Array) -> list[Array]:
    """A step along each element, along both parts of complex ones."""
    made = []
    for index in np.ndindex(x.shape):
        for step in (1.0, 1.0j) if np.iscomplexobj(x) else (1.0,):
            way = np.zeros_like(x)
            way[index] = step
            made.append(way)
    return made


def _random_direction(x: Array, seed: int) -> Array:
    way = np.asarray(np.random.default_rng(seed).standard_normal(x.shape)).astype(x.dtype)
    return np.asarray(way / max(float(np.linalg.norm(way)), 1e-30))


@laws.law(
    "L1c",
    "partial_gradients",
    priority=0,
    tolerance="T1",
    why="Frozen weights and inputs without gradient are the rule in fine-tuning and in first layers.",
    satisfy="In a custom backward, ask ctx.needs_input_grad for each input by itself and return one value for each.",
    catches=("a backward that skips the weight's gradient when the input needs none",),
)
def partial_gradients(trial: Trial) -> None:
    """Gradients are the same when inputs need none, or when some of the parameters are frozen."""
    driver: LayerDriver = trial.driver
    layer, given = driver.exact(trial, 2)
    whole = driver.see(trial, layer, given).get("gradient", {})
    if not whole:
        no_gradient(trial)
    names = list(driver.parameters(layer))
    cases: dict[str, tuple[tuple[int, ...], list[str]]] = {}
    if names:
        cases["inputs need no gradient"] = (tuple(range(len(given))), [])
        cases["all parameters are frozen"] = ((), names)
    cases |= {f"{n} is frozen": ((), [n]) for n in names[:6]}
    cases |= {f"input {i} needs no gradient": ((i,), []) for i in range(len(given)) if len(given) > 1}
    if not cases:
        cases["the output is asked for its only gradient"] = ((), [])
    for said, (fixed, frozen) in cases.items():
        with trial.case(size=2, dtype="float64", frozen=said):
            fresh = driver.build(trial, "float64")
            with trial.component(f"its backward where {said}"):
                part = driver.see(trial, fresh, given, fixed=fixed, frozen=frozen).get("gradient", {})
            same(trial, f"gradients where {said}", part, {k: v for k, v in whole.items() if k in part}, tolerance="T1")
            out = {f"parameter {n}" for n in frozen}
            due = {k for k, v in whole.items() if v is not None and k not in out and not _of_inputs(k, fixed)}
            lost = sorted(due - part.keys())
            trial.demand(not lost, f"where {said}, there is no gradient for {', '.join(lost)}",
                         first={"tensor": lost[0] if lost else ""})  # fmt: skip


def _of_inputs(path: str, fixed: tuple[int, ...]) -> bool:
    return any(path == f"input {i}" or path.startswith((f"input {i}[", f"input {i}.")) for i in fixed)


# -- state -------------------------------------------------------------------------------------------------------------
@laws.law(
    "L4",
    "state",
    priority=0,
    tolerance="T0",
    why="What is not in the saved state is lost in every checkpoint, and nothing says so.",
    satisfy="Hold arrays where the framework saves them, and everything else as constructor arguments or in what it saves.",
    catches=("keras#17383", "pytorch#59925", "a running mean in a plain attribute", "a random projection that is not a buffer"),
)
def state(trial: Trial) -> None:
    """A fresh instance with the loaded state gives the same outputs and gradients, and all arrays that are used are in it."""
    driver: LayerDriver = trial.driver
    with trial.case(attribute="unregistered"):
        driver.check_attributes(trial)
    layer, given = driver.used(trial, 3)
    want = driver.see(trial, layer, given)
    with trial.case(size=3, dtype="float32", by="its state"):
        saved = driver.save(layer)
        fresh = driver.build(trial, stream="another build")
        unloaded = driver.see(trial, fresh, given)
        with trial.component("loading its state into a fresh instance"):
            driver.load(fresh, saved)
        lost = driver.unsaved(layer)
        cause = f"buffers that are not persistent: {', '.join(lost)}" if lost else "state that is not in what it saves"
        same(trial, "a fresh instance with its state", driver.see(trial, fresh, given), want, cause=cause)
        unlike = differs(unloaded, want)
        if unlike or driver.parameters(layer):  # without parameters what is saved may be fixed, such as a table
            trial.control("a fresh instance without the state differs", unlike or not driver.has_state(layer))
