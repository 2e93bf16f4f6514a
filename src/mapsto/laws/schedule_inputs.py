"""How schedules are fed: arguments by the names that schedules use, what a run injects, a metric to watch, steps to drive.

Beyond `args` an author may state a `formula`, f(t, base, **args) -> rate; `variants`, further arguments to check it with; and
`steps`, how far it can be stepped (30). Tag: `absolute` (it sets rates itself and does not scale those of the groups).
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

from ..core.laws import Example, Trial
from .drivers import Schedule

STEPS = 30
"""Steps that are driven: past every boundary that the guessed arguments have."""
INJECTED = {"total_steps": 20, "steps_per_epoch": 4, "seed": 0}
"""What a run injects by name."""
RATES = (0.1, 0.05)
"""Learning rates of the two groups."""
NAMES: tuple[tuple[str, Any], ...] = (
    (r"(num_|n_)?(total|training|max|decay|t)_?(steps?|iters?|max|updates|epochs?)|steps|T_max", 20),
    (r"(num_|n_)?warm_?up.*(steps?|iters?|epochs?)?|rise", 5),
    (r"T_0|step_size.*|period|cycle.*|patience|interval|every", 4),
    (r"milestones|boundaries", [3, 7, 8]),
    (r"gamma|factor|decay.*|power|.*ratio|.*factor", 0.5),
    (r".*min.*|final.*|.*end.*", 1e-3),
    (r".*max.*|.*start.*|.*init.*|.*base.*", 0.02),
)
"""Patterns of argument names and what stands for them."""


def guess(target: Any, stated: Example, *, given: int) -> tuple[dict[str, Any], str | None]:
    """Arguments by name, beside the `given` first ones; and the name that tells nothing, if there is one."""
    found: dict[str, Any] = {}
    for name, parameter in list(signature(target).items())[given:]:
        if parameter.default is not parameter.empty or name in stated.args or name in INJECTED:
            continue
        value = next((v for pattern, v in NAMES if re.fullmatch(pattern, name)), None)
        if value is None:
            return found, name
        found[name] = value
    return found, None


def signature(target: Any) -> dict[str, inspect.Parameter]:
    """Named parameters of a class or factory."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try:
        return {n: p for n, p in inspect.signature(target).parameters.items() if p.kind not in kinds}
    except (TypeError, ValueError):
        return {}


def arguments(trial: Trial, variant: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the schedule is built with: the example's arguments or a variant, and what a run injects by name."""
    args = dict(trial.example.args if variant is None else variant)
    offered = {n: v for n, v in INJECTED.items() if n in signature(trial.subject.target)}
    return {**{n: v for n, v in offered.items() if _needed(trial, n)}, **args}


def _needed(trial: Trial, name: str) -> bool:
    parameter = signature(trial.subject.target)[name]
    return parameter.default is parameter.empty


def demand_arguments(trial: Trial) -> None:
    """Nothing is told of an instance, nor of a schedule with an argument that could not be guessed: say what to write."""
    if trial.subject.make is not None:
        trial.undecided(f"{trial.subject.label} is an instance, which is bound to its optimizer: check its class or factory")
    if (unfound := trial.example.more.get("unfound")) is not None:
        name = trial.subject.label.rpartition(":")[2].rpartition("/")[2]
        trial.undecided(
            f"its argument `{unfound}` could not be guessed; write beside it\n  mapsto.example({name}, "
            f"args={{{unfound!r}: ...}})"
        )


def metric(t: int) -> float:
    """The metric at step t, for schedules that watch one: it improves, stays for long, improves once more and gets worse."""
    return 1.0 - 0.1 * min(t, 4) if t < 16 else (0.3 if t == 16 else 0.5 + 0.01 * t)


def steps(trial: Trial) -> int:
    """How many steps are driven."""
    return int(trial.example.more.get("steps", STEPS))


def sequence(schedule: Schedule, count: int) -> list[list[dict[str, float]]]:
    """Its settings before the updates 0, ..., count - 1."""
    found = []
    for t in range(count):
        found.append(schedule.settings())
        if t + 1 < count:
            schedule.advance(t)
    return found


def close(got: float, want: float) -> bool:
    """Equal within 1e-12 relative (and far below any rate in use)."""
    return math.isclose(got, want, rel_tol=1e-12, abs_tol=1e-16)
