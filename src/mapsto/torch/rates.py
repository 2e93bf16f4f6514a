"""The rates of a schedule: step by step before a run, and a schedule as it would stand after so many steps."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from ..core.errors import SpecError
from ..core.parts import Part, as_part, build, of_library, resolve
from ..core.spec import Spec
from ..core.turns import turns_of
from .mappings import awaits_metric

WRITTEN = ("lr", "initial_lr", "max_lr", "min_lr", "momentum", "betas", "base_momentum", "max_momentum")
"""Options of a parameter group that torch's schedules write."""


def rates(spec: Spec, injected: Mapping[str, Any], steps: int) -> list[float]:
    """The rate of the first parameter group at each of `steps` steps; empty where the optimizer takes no lone matrix, or the
    schedule waits for a metric."""
    if spec.turns is not None:
        return []
    given = {"seed": spec.seed, **injected}
    try:
        optimizer = _optimizer(spec.optimizer, given)
        schedule = build(as_part(spec.schedule), "schedule", optimizer, path="schedule", injected=given)
    except (RuntimeError, ValueError, TypeError, KeyError):
        return []
    if awaits_metric(schedule):
        return []
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no update comes before these steps
        for _ in range(steps):
            found.append(float(optimizer.param_groups[0]["lr"]))
            schedule.step()
    return found


def _optimizer(optimizer: Any, injected: Mapping[str, Any], path: str = "optimizer") -> Any:
    return build(as_part(optimizer), "optimizer", [nn.Parameter(torch.zeros(2, 2))], path=path, injected=injected)


LONG = 1_000_000
"""Steps that a run of unknown length is taken to have, where a schedule must be told some."""


def try_rates(spec: Spec) -> None:
    """Build the optimizer and the schedule on a lone matrix, where they are torch's or ours: what they refuse, they refuse
    of any model. Raises SpecError."""
    steps = LONG if spec.steps is None else spec.steps
    injected = {
        "seed": spec.seed,
        "total_steps": steps,
        "steps_per_epoch": steps if spec.epochs is None else steps // spec.epochs,
    }
    if spec.turns is None:
        _try(spec.optimizer, spec.schedule, injected, "", spec.steps)
        return
    for name, turn in turns_of(spec.turns, optimizer=spec.optimizer, schedule=spec.schedule).items():
        counted = {n: max(1, turn.updates(injected[n])) for n in ("total_steps", "steps_per_epoch")}
        updates = None if spec.steps is None else turn.updates(spec.steps)
        _try(turn.optimizer, turn.schedule, {**injected, **counted}, f"turns.{name}.", updates)


def _try(optimizer: Any, schedule: Any, injected: Mapping[str, Any], path: str, steps: int | None) -> None:
    if not _known(optimizer, "optimizer"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which come when it is built for the model
        made = _optimizer(optimizer, injected, f"{path}optimizer")
        if _known(schedule, "schedule"):
            fits(build(schedule, "schedule", made, path=f"{path}schedule", injected=injected), steps)


def _known(part: Any, kind: str) -> bool:
    if not isinstance(part, Part):
        return False
    target = resolve(part, kind, kind)[0]
    return of_library(target) or getattr(target, "__module__", "").startswith("mapsto.")


def fits(schedule: Any, total_steps: Any) -> None:
    """Raises SpecError where a schedule is for fewer steps than the run has: it would raise in the midst of it."""
    if not isinstance(schedule, OneCycleLR) or not isinstance(total_steps, int) or schedule.total_steps >= total_steps:
        return
    raise SpecError(
        f"schedule: {type(schedule).__name__} is for {schedule.total_steps} steps, and the run has {total_steps}: leave "
        "total_steps (and epochs) out of the schedule, which is then as long as the run, or say as many"
    )


def advanced(optimizer: torch.optim.Optimizer, schedule: Any, steps: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The state of a fresh schedule after so many steps, and what it then has written into the parameter groups."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            schedule.step()
    return schedule.state_dict(), [{k: group[k] for k in WRITTEN if k in group} for group in optimizer.param_groups]
