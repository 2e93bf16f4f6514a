"""Gradient accumulation: one step over several micro-batches, with the gradient of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.compose import middleware
from ...core.doors import typed
from ...core.errors import DataError, nearest
from ...core.ranges import Count
from ..mappings import Batch, Grad, Metrics
from ..mesh.one import local
from ..state import State
from .gradients import dense, scale


@middleware("accumulate", provides="accumulation", after="mesh")
class Accumulate:
    """grad -> grad over `steps` micro-batches, slices along the first axis, that need the memory of one.

    The gradient is that of the summed loss divided once by the summed weight, whatever the micro-batches weigh. Micro-batch
    i of n records is `[n * i // steps : n * (i + 1) // steps]`, as a reader's micro-shards are; empty ones are left out,
    and each has its own random stream (`state.shard`), so dropout differs from that of one big batch.
    count: the field whose first axis counts the records (default: `input` where there is one, else the first that has an
    axis); fields of another length, and those named in `whole`, are passed whole.
    Metrics: pairs are summed, scalars averaged over the micro-batches. Raises SpecError, DataError.
    """

    @typed
    def __init__(self, steps: Count, *, count: str | None = None, whole: Sequence[str] = ()) -> None:
        self.steps, self.count, self.whole = steps, count, frozenset(whole)

    def grad(self, inner: Grad) -> Grad:
        if self.steps == 1:
            return inner
        steps = self.steps

        def accumulated(state: State, batch: Batch) -> Metrics:
            records, outer, absent = self._records(batch), state.shard, state.mesh.absent
            if records == 0:
                return inner(state, batch)
            cuts = [(i, records * i // steps, records * (i + 1) // steps) for i in range(steps)]
            if not state.mesh.lockstep:
                cuts = [cut for cut in cuts if cut[1] < cut[2]]
            window: list[Metrics] = []
            try:
                with state.sums():
                    for place, (i, start, stop) in enumerate(cuts):
                        state.shard = outer * steps + i
                        state.mesh.absent = absent or start == stop  # a record in the place of none, which weighs nothing
                        part = self._slice(batch, records, *((start, stop) if start < stop else (0, 1)))
                        with state.mesh.pending(place < len(cuts) - 1):
                            window.append(inner(state, part))
            finally:
                state.shard, state.mesh.absent = outer, absent
            metrics = merged(window)
            if not state.summing:
                _divide(dense(state.parameters), metrics["loss"][1])
            return metrics

        return accumulated

    def _records(self, batch: Batch) -> int:
        if self.count is not None and self.count not in batch:
            raise DataError(f"accumulate.count: the batch has no field {self.count!r}; {nearest(self.count, batch)}")
        preferred = [self.count] if self.count is not None else ["input", *batch]
        for name in preferred:
            if name in batch and name not in self.whole and (length := _length(batch[name])) is not None:
                return length
        raise DataError(f"accumulate: no field of the batch ({', '.join(batch)}) has a first axis to cut it by")

    def _slice(self, batch: Batch, records: int, start: int, stop: int) -> dict[str, Any]:
        cut = {n for n, v in batch.items() if n not in self.whole and _length(v) == records}
        return {n: v[start:stop] if n in cut else v for n, v in batch.items()}


def _length(value: Any) -> int | None:
    """Of the first axis; None where there is none."""
    if isinstance(value, (str, bytes, dict)) or getattr(value, "ndim", 1) == 0 or not hasattr(value, "__len__"):
        return None
    return len(value)


def merged(window: list[Metrics]) -> Metrics:
    """The metrics of several passes as those of one: pairs are summed, scalars averaged."""
    columns: dict[str, list[Any]] = {}
    for metrics in window:
        for name, value in metrics.items():
            columns.setdefault(name, []).append(value)
    return {
        name: (sum(s for s, _ in values), sum(w for _, w in values)) if type(values[0]) is tuple else sum(values) / len(values)
        for name, values in columns.items()
    }


def _divide(gradients: list[Tensor], weight: Tensor | float) -> None:
    """Divide in place; nothing to learn from gives a zero gradient, not 0/0."""
    if not gradients:
        return
    if isinstance(weight, Tensor):
        exact = weight.to(torch.float32 if weight.device.type == "mps" else torch.float64)
        scale(gradients, torch.where(exact == 0, 0.0, 1.0 / exact))
    else:
        torch._foreach_mul_([local(g) for g in gradients], 1.0 / weight if weight else 0.0)
