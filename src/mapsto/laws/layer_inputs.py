"""What the laws of layers do with inputs: arrays in nested tuples, lists and dicts, by path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ..core.laws import Trial
from .compare import Array, is_array, leaves, values
from .drivers import LayerDriver


def placed(tree: Any, path: str, at: str, value: Array) -> Any:
    """The tree that lies at `path`, with what lies at `at` (`input 0[1].mask`) replaced; as it is where it has no such path."""
    if path == at:
        return value
    if type(tree) in (tuple, list):
        return type(tree)(placed(x, f"{path}[{i}]", at, value) for i, x in enumerate(tree))
    return {k: placed(v, f"{path}.{k}", at, value) for k, v in tree.items()} if isinstance(tree, dict) else tree


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """The tree with what `change` makes of each of its arrays."""
    if is_array(tree):
        return change(tree)
    if type(tree) in (tuple, list):
        return type(tree)(mapped(x, change) for x in tree)
    return {k: mapped(v, change) for k, v in tree.items()} if isinstance(tree, dict) else tree


def no_gradient(trial: Trial) -> NoReturn:
    """Nothing that it returns can be differentiated: not applicable where there is nothing to differentiate by or it declares
    that, and else not known."""
    if trial.has("not_differentiable") or trial.has("ignores_values"):
        trial.skip("nothing of it is differentiable, as it declares")
    driver: LayerDriver = trial.driver
    given = leaves(driver.inputs(trial, 2)).values()
    if not driver.parameters(driver.build(trial)) and not any(is_array(x) and values(x).dtype.kind in "fc" for x in given):
        trial.skip("it has no parameters and takes no floating numbers: there is nothing to differentiate by")
    trial.undecided(
        "no gradient was compared: it returns no floating array that depends on an input or a parameter; where that is meant, "
        "state tags={'not_differentiable'}"
    )


def controlled_by_inputs(trial: Trial, what: str, differs: bool) -> None:
    """The control that other inputs give another result, but of a layer that declares that no value of them matters."""
    if not trial.has("ignores_values"):
        trial.control(what, differs)
    else:
        trial.demand(not differs, "it declares `ignores_values`, and other values give another result")
