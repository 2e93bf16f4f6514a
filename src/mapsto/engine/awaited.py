"""What waits for a metric of an evaluation, and is told before the first step where that metric would never come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core.errors import SpecError, nearest
from ..core.spec import CheckpointPlan, Spec
from .loop import Loop, evaluate
from .streams import preserve_rng

Awaited = list[tuple[str, str]]
"""(what waits, as a path in the spec; the metric that it waits for)."""


def awaited_by(made: Any) -> tuple[str, ...]:
    """The metrics that an observer or program says it waits for, in an attribute `awaits`: a name or several."""
    found = getattr(made, "awaits", ())
    return (found,) if isinstance(found, str) else tuple(found)


def require_awaited(loop: Loop) -> None:
    """Raise SpecError where early stopping, a plateau or the best checkpoint waits for what no evaluation of the run gives.

    The loss of a validation set is known to come; for any other name one batch of each set is evaluated, which changes
    nothing. All ranks call it together.
    """
    observers = [(f"observers.{name}", metric) for name, made in loop.dispatch.active.items() for metric in awaited_by(made)]
    waiting = [*observers, *(("schedule", metric) for metric in awaited_by(loop.program))]
    waiting = loop.ranks.share(waiting)  # only the leader has observers
    best = _best(loop.spec.checkpoint, loop.spec.validation_sets)
    if not waiting and not best:
        return
    _require_evaluations(loop, waiting, best)
    sets = loop.spec.validation_sets
    wanted = [pair for pair in [*waiting, *best] if pair[1] not in {f"{name}/loss" for name in sets}]
    if wanted:
        _require_names(wanted, _names(loop, sets))


def require_known(spec: Spec) -> None:
    """Raise SpecError where the best checkpoint waits for a metric of no data set that the spec evaluates."""
    for where, metric in _best(spec.checkpoint, spec.validation_sets):
        if not spec.validation_sets:
            raise SpecError(_nothing(where, metric, spec.data))
        name, slash, _ = metric.partition("/")
        if not slash or name not in spec.validation_sets:
            likely = [f"{name}/{metric if not slash else metric.partition('/')[2]}" for name in spec.validation_sets]
            raise SpecError(f"{where}: an evaluation gives no {metric!r}; it gives such as {', '.join(likely)}")


def _nothing(where: str, metric: str, data: Iterable[str]) -> str:
    return (
        f"{where}: it waits for {metric!r}, and nothing is evaluated while this run trains: data has {', '.join(data)}; "
        "add data.valid, or leave it out"
    )


def _best(plan: CheckpointPlan, sets: Iterable[str]) -> Awaited:
    """The best checkpoint waits where something is evaluated, and where a spec asks for more than is done by default."""
    asked = (plan.best, plan.metric, plan.mode) != (CheckpointPlan.best, CheckpointPlan.metric, CheckpointPlan.mode)
    return [("checkpoint.metric", plan.metric)] if plan.best and (asked or list(sets)) else []


def _require_evaluations(loop: Loop, waiting: Awaited, best: Awaited) -> None:
    sets = loop.spec.validation_sets
    if not sets:
        where, metric = [*waiting, *best][0]
        raise SpecError(_nothing(where, metric, loop.spec.data))
    every = loop.every["evaluate"]
    if waiting and 0 < loop.total < every:
        where, metric = waiting[0]
        raise SpecError(
            f"{where}: it waits for {metric!r}, which is told every {every} steps, and the run has {loop.total}: "
            "say evaluate_every, or train for longer"
        )


def _names(loop: Loop, sets: Iterable[str]) -> list[str]:
    """The metrics that an evaluation gives, found out on the first batch of each set."""
    with preserve_rng(loop.wing):
        found: Mapping[str, Mapping[str, float]] = {
            name: evaluate(loop.program, loop.readers[name], f"data.{name}", loop.ranks, batches=1) for name in sets
        }
    return [f"{name}/{metric}" for name, metrics in found.items() for metric in metrics]


def _require_names(wanted: Awaited, given: list[str]) -> None:
    for where, metric in wanted:
        if metric not in given:
            raise SpecError(f"{where}: an evaluation gives no {metric!r}; {nearest(metric, given)}")
