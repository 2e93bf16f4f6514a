"""Evaluation and prediction: each record weighed once, sums in float64, one copy from the device at the end."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..core.errors import DataError, SpecError
from ..data.stream import PaddingBatch
from ..tasks.metric import Tally, named
from .error_context import error_context
from .mappings import Loss
from .placement import place
from .state import State
from .survey import modes

PANEL_RECORDS = 10_000
"""Records that a report looks at, at most."""


class Evaluated(Protocol):
    """The attributes of a program that `evaluate`, `predict` and `panels` use."""

    state: State
    task: Any
    loss: Loss
    modes: dict[str, list[str]]

    def evaluating(self) -> AbstractContextManager[State]:
        """Within it: evaluation mode, no gradients, the weights for evaluation."""
        ...


def fetch(window: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The metrics of several steps as floats: (sum, weight) pairs averaged exactly, scalars over the steps that have them."""
    columns: dict[str, list[Any]] = {}
    for metrics in window:
        for name, value in metrics.items():
            columns.setdefault(name, []).append(value)
    found: dict[str, float] = {}
    for name, values in columns.items():
        if type(values[0]) is tuple:
            weight = _total([w for _, w in values])
            found[name] = _total([s for s, _ in values]) / weight if weight else float("nan")
        else:
            found[name] = _total(values) / len(values)
    return found


def _total(values: list[Any]) -> float:
    tensors = [v for v in values if isinstance(v, Tensor)]
    total = float(sum(v for v in values if not isinstance(v, Tensor)))
    for device in {t.device for t in tensors}:  # a window that a checkpoint cut in two lies on the CPU in part
        total += float(torch.stack([t for t in tensors if t.device == device]).double().sum())
    return total


def evaluate(program: Evaluated, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Means over all records of the loss and of what the task measures, with the weights for evaluation.

    Raises DataError where there are no batches.
    """
    task = program.task
    stateful = task.stateful_metrics() if hasattr(task, "stateful_metrics") else {}
    for metric in stateful.values():
        metric.reset()
    tally = _tally(task)
    parts: dict[int, dict[str, Any]] = {}
    try:
        with program.evaluating() as state, modes(state) as program.modes:
            for part, number, batch in _micro_shards(state, batches):
                state.shard = number
                state.reseed()
                placed = place(batch, state.device)
                with error_context(state, placed):
                    total, weight, outputs = program.loss(state, placed)
                    found = {"loss": (total, weight), **(task.measure(outputs, placed) if hasattr(task, "measure") else {})}
                    weighed = {n: (t * 0, w * 0) for n, (t, w) in found.items()} if state.mesh.absent else found
                    _add(parts.setdefault(part, {}), weighed)
                    if not state.mesh.absent:
                        for metric in stateful.values():
                            metric.update(outputs, task.wanted(placed))
                        _count(tally, state.mesh.own[part] if part < len(state.mesh.own) else part, task, outputs, placed)
            if not parts:
                raise DataError("there is nothing to evaluate: the reader gave no batch")
            sums = state.mesh.sums([{name: tuple(pair) for name, pair in held.items()} for _, held in sorted(parts.items())])
    finally:
        program.state.shard, program.state.mesh.absent = 0, False
    means = {name: float(total) / float(weight) if float(weight) else float("nan") for name, (total, weight) in sums.items()}
    labels = getattr(task, "labels", None)
    for name, metric in stateful.items():
        means |= named(name, _plain(metric.compute()), labels)
    if tally.metrics:
        means |= tally.results(tally.totals(state.mesh.gather(tally.state())), labels)
    return {**means, **(task.derive(means) if hasattr(task, "derive") else {})}


def _tally(task: Any) -> Tally:
    """Of the task's metrics whose statistics add, of which a function that is a task has none."""
    return Tally(task.counting_metrics() if hasattr(task, "counting_metrics") else {})


def _count(tally: Tally, part: int, task: Any, outputs: Any, batch: Mapping[str, Any]) -> None:
    """Count a batch, copying from the device what some metric looks at."""
    if tally.metrics:
        prediction, target, mask = task.compared(outputs, batch)
        looked_at = {f: _array(v) if f in tally.reads else np.empty(0) for f, v in prediction.items()}
        tally.count(part, looked_at, _array(target), None if mask is None else _array(mask))


def _plain(result: Any) -> Any:
    """What a metric of torchmetrics computed, without tensors."""
    if isinstance(result, Mapping):
        return {key: _plain(value) for key, value in result.items()}
    return _array(result.detach()) if isinstance(result, Tensor) else result


def _micro_shards(state: State, batches: Iterable[Any]) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Every batch or micro-shard with its place among those of this rank, and its number in the whole evaluation; a stand-in
    is known by the mesh's `absent`."""
    mesh = state.mesh
    for position, batch in enumerate(batches):
        if not isinstance(batch, list):
            yield 0, position, batch
            continue
        for which, (number, part) in enumerate(zip(mesh.own, batch, strict=True)):
            mesh.absent = isinstance(part, PaddingBatch)
            yield which, position * mesh.micro_shards + max(number, 0), part
            mesh.absent = False


def _add(sums: dict[str, Any], pairs: Mapping[str, tuple[Any, Any]]) -> None:
    """Add (sum, weight) pairs to the sums so far, in float64 on the device."""
    for name, pair in pairs.items():
        kept = sums.setdefault(name, [0.0, 0.0])
        for i, value in enumerate(pair):
            kept[i] = kept[i] + (value.double() if isinstance(value, Tensor) else value)


def predict(program: Evaluated, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The task's predictions a batch, as NumPy arrays. Raises SpecError where the task does not predict."""
    for prediction, _, _ in _predictions(program, batches):
        yield {name: _array(value) for name, value in prediction.items()}


def panels(program: Evaluated, batches: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the task shows of its predictions over the first records."""
    if not hasattr(program.task, "panels"):
        return []
    collected, records = [], 0
    tally = _tally(program.task)
    for prediction, batch, outputs in _predictions(program, batches):
        _count(tally, 0, program.task, outputs, batch)
        collected.append(({k: v.cpu() for k, v in prediction.items()}, {k: _cpu(v) for k, v in batch.items()}))
        records += len(next(iter(prediction.values())))
        if records >= PANEL_RECORDS:
            break
    return [*program.task.panels(collected), *tally.panels(tally.totals([tally.state()]))]


def _predictions(
    program: Evaluated, batches: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[dict[str, Tensor], dict[str, Any], Any]]:
    task = program.task
    if not hasattr(task, "predict"):
        raise SpecError(f"task: {getattr(task, '__name__', type(task).__name__)} has no predict(outputs), so it cannot predict")
    for batch in batches:
        with program.evaluating() as state:  # a batch at a time: whoever consumes this may train in between
            state.reseed()
            placed = place(batch, state.device)
            with error_context(state, placed):
                outputs = state.mesh.calling(functools.partial(task.forward, state.model, placed))
                found = task.predict(outputs)
        yield found, placed, outputs


def _cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _array(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
