"""Laws of layers and models, x -> y: gradients are those of finite differences, and what is saved is everything."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.laws import Laws, Trial
from ..core.random import derive
from .compare import Array, differs, leaves, ratio_cause, same
from .drivers import LayerDriver
from .layer_inputs import placed

laws = Laws("layer", "model")

SLOW = 400
"""Numbers up to which every element is compared with a finite difference; beyond, a random direction of each tensor is."""
STEP, ATOL, RTOL = 1e-6, 1e-5, 1e-3
"""T3: what is added and taken away, and how far the difference may be off (the defaults of `torch.autograd.gradcheck`)."""


# -- gradients ---------------------------------------------------------------------------------------------------------
@laws.law(
    "L1",
    "gradients",
    priority=0,
    tolerance="T3",
    why="A wrong backward trains to something, only worse; no shape or loss check sees it.",
    satisfy="Let autograd differentiate, or check a hand-written backward with torch.autograd.gradcheck in float64.",
    catches=("a custom autograd.Function whose backward forgets a factor", "a detach in the middle of a forward pass"),
)
def gradients(trial: Trial) -> None:
    """Gradients with respect to inputs and parameters equal finite differences in float64, in evaluation and in training."""
    driver: LayerDriver = trial.driver
    for training in (False, True):
        with trial.case(size=2, dtype="float64", mode="training" if training else "evaluation"):
            layer, given = driver.exact(trial, 2, training=training)
            seed = derive(trial.seed, "gradients")
            _, found = driver.total(trial, layer, given, seed=seed)
            if not found:
                trial.skip("nothing of it is differentiable")
            known = leaves({f"input {i}": x for i, x in enumerate(given)})
            known |= {f"parameter {n}": x for n, x in driver.parameters(layer).items()}
            if odd := sorted(found.keys() - known.keys()):
                trial.undecided(f"its driver's `total` tells gradients of {', '.join(odd)}; there are {', '.join(known)}")
            point = {path: x for path, x in known.items() if path in found}

            def moved(path: str, x: Array, layer: Any = layer, given: tuple[Any, ...] = given, seed: int = seed) -> float:
                own = {path.removeprefix("parameter "): x} if path.startswith("parameter ") else {}
                there = given if own else tuple(placed(g, f"input {i}", path, x) for i, g in enumerate(given))
                return driver.total(trial, layer, there, seed=seed, parameters=own, gradients=False)[0]

            few = sum(x.size for x in point.values()) < SLOW
            for path, x in point.items():
                _compare(trial, path, found[path], x, lambda y, path=path: moved(path, y), each=few)
            trial.exercised("gradients", len(point))


def _compare(trial: Trial, path: str, found: Array | None, x: Array, value: Any, *, each: bool) -> None:
    """The gradient of one tensor against central differences, element by element or along one direction."""
    ways = _directions(x) if each else [_random_direction(x, trial.seed)]
    numeric = [(value(x + STEP * way) - value(x - STEP * way)) / (2 * STEP) for way in ways]
    analytic = [float(np.real(np.sum(np.conj(found) * way))) if found is not None else 0.0 for way in ways]
    got, want = np.asarray(analytic), np.asarray(numeric)
    off = np.abs(got - want) - ATOL - RTOL * np.abs(want)
    if not bool((off > 0).any() | np.isnan(off).any()):
        return
    at = int(np.nanargmax(off)) if not np.isnan(off).all() else 0
    missing = not got.any() and bool(want.any())
    ratio = f"its gradient is {got[at] / want[at]:.4g} of what it should be" if abs(want[at]) > 1e-6 else ratio_cause(got, want)
    trial.fail(
        f"the gradient of {path} is {got[at]:.6g}, and {want[at]:.6g} by finite differences",
        measured=float(abs(got[at] - want[at])),
        allowed=f"{ATOL} + {RTOL} |x|",
        first={"tensor": path.removeprefix("parameter ")},
        cause="its gradient is missing: detached or not returned" if missing else ratio,
    )


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


# -- state -------------------------------------------------------------------------------------------------------------
@laws.law(
    "L4",
    "state",
    priority=0,
    tolerance="T0",
    why="What is not in the state_dict is lost in every checkpoint, and nothing says so.",
    satisfy="Hold tensors as parameters or buffers, and everything else as constructor arguments or through get_extra_state.",
    catches=("keras#17383", "a running mean in a plain attribute", "a random projection that is not a buffer"),
)
def state(trial: Trial) -> None:
    """A fresh instance with the loaded state_dict gives the same outputs and gradients, and all tensors that are used
    are in it.
    """
    driver: LayerDriver = trial.driver
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
        if driver.has_state(layer):
            trial.control("a fresh instance without the state differs", differs(unloaded, want))
    with trial.case(attribute="unregistered"):
        driver.check_attributes(trial)
