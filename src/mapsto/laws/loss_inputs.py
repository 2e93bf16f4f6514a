"""What the laws of losses do with inputs: choose records, cut them into parts, ignore targets, ask for reductions.

Beyond `args` and `inputs` an author may state: `fixed`, which inputs are targets (default: the second); `axes`, the record
axis of each input (0); `domain`, where predictions live (`real`); `weight`, what a mean divides by, as `mean_of` takes it;
`ignore_index`; `mean`, what reduction="mean" is of (losses, inputs), where that is no weighted mean; `bounds`, `minimum`.
Tags: `across_records` (records depend on one another), `ordered` (their order matters).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..core.laws import Trial, Violation


def is_float(value: Any) -> bool:
    """Whether an input is an array of real floating-point numbers."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def fixed(trial: Trial) -> tuple[int, ...]:
    """The numbers of the inputs that are no predictions, the targets first: the second, where a driver tells no other."""
    return tuple(trial.example.more.get("fixed", (1,)))


def domain(trial: Trial) -> str:
    """What predictions may be: `real` (where a driver tells no other), `probability` or `log_probability`."""
    return str(trial.example.more.get("domain", "real"))


def axis_of(trial: Trial, path: str) -> int:
    """The axis of records of an input, or of its gradient, by its path (`input 0`); 0 for what is none."""
    axes = trial.example.more.get("axes", 0)
    number = int(path.split()[1].partition("[")[0]) if path.startswith("input ") else 0
    return int(axes if isinstance(axes, int) else axes[number])


def records(trial: Trial, given: tuple[Any, ...], index: Sequence[int]) -> tuple[Any, ...]:
    """The inputs of some records, in this order."""
    chosen = np.asarray(index, dtype=np.int64)
    return tuple(
        np.take(x, chosen, axis_of(trial, f"input {i}")) if isinstance(x, np.ndarray) and x.ndim else x
        for i, x in enumerate(given)
    )


def parts(trial: Trial, given: tuple[Any, ...], sizes: Sequence[int]) -> list[tuple[Any, ...]]:
    """The inputs cut along the records."""
    bounds = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [records(trial, given, range(a, b)) for a, b in pairwise(bounds)]


def with_ignored(trial: Trial, given: tuple[Any, ...], ignored: Sequence[int], index: int) -> tuple[Any, ...]:
    """The inputs with all targets of these records ignored."""
    at = fixed(trial)[0]
    target = given[at].copy()
    target[list(ignored)] = index
    return (*given[:at], target, *given[at + 1 :])


def options(trial: Trial) -> dict[str, inspect.Parameter]:
    """Options by name: of the constructor of a class, of the function itself; of an instance those it holds."""
    target = trial.subject.target
    if inspect.isclass(target) or inspect.isroutine(target):
        try:
            return dict(inspect.signature(target).parameters)
        except (TypeError, ValueError):
            return {}
    return {n: inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=v) for n, v in vars(target).items()}


def has_reductions(trial: Trial) -> bool:
    """Whether reduction="none", "sum" and "mean" can be asked of it, and are not already settled by (total, weight)."""
    driver = trial.driver
    return "reduction" in options(trial) and driver.look(trial, driver.build(trial), driver.inputs(trial, 2)).form != "weighted"


REFUSALS = (NotImplementedError, ValueError, KeyError, AssertionError, TypeError)
"""How a loss says that it has no such reduction."""


def takes_reduction(trial: Trial, reduction: str) -> bool:
    """Whether a loss with an argument `reduction` computes with this one, and does not refuse it.

    The one that it has by default is never refused: where that raises, the loss is broken.
    """
    if reduction == mean_name(trial):
        return True
    _, override = ignoring(trial) or (None, dict[str, Any]())
    given = trial.driver.inputs(trial, 2)
    try:
        trial.driver.look(trial, trial.driver.build(trial, reduction=reduction, **override), given)
    except Violation as broken:  # it raised when it was built
        return not isinstance(broken.__context__, REFUSALS)
    except REFUSALS:
        return False
    except Exception:  # noqa: BLE001  # it tried, and the law that asks for it shows how it failed
        return True
    return True


def mean_name(trial: Trial) -> str:
    """What its mean is called: its default, where that is neither `none` nor `sum`."""
    usual = trial.example.args.get("reduction", options(trial)["reduction"].default)
    return usual if isinstance(usual, str) and usual not in ("none", "sum") else "mean"


def ignoring(trial: Trial) -> tuple[int, dict[str, Any]] | None:
    """The target that is ignored and the options that make it so, or None where there is none."""
    trial.driver.settle(trial)
    found, override = trial.example.more.get("ignore_index"), dict[str, Any]()
    if found is None and "ignore_index" in options(trial):
        found = trial.example.args.get("ignore_index", options(trial)["ignore_index"].default)
        if found is None:
            found, override = -100, {"ignore_index": -100}
    if not isinstance(found, int) or isinstance(found, bool):
        return None
    targets = [x for i, x in enumerate(trial.driver.inputs(trial, 2)) if i in fixed(trial)]
    if not targets or not isinstance(targets[0], np.ndarray) or targets[0].dtype.kind not in "iub":
        return None
    return found, override
