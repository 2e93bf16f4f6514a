"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from ...core.compose import middleware
from ...core.doors import typed
from ...core.ranges import Whole
from ..mappings import Grad, Loss, Step, Update
from ..state import State

T = TypeVar("T", bound=Callable[..., Any])
PARTS = ("loss", "grad", "update", "other")


@middleware("timing", before=("nonfinite", "mixed_precision", "sam", "accumulate", "mixup", "cutmix", "distillation", "ema"))
class Timing:
    """Metrics of where a step's time goes, in seconds, at every `every`-th step: they add up to the step.

    `time/loss`: forward passes; `time/grad`: gradients without these; `time/update`: optimizer, clipping, averaging;
    `time/other`: the rest of the step. On a GPU the sampled steps wait for the device before and after each part and are
    slower for it; the others are not touched. `every` 0 measures nothing. Raises SpecError.
    """

    @typed
    def __init__(self, every: Whole = 50) -> None:
        self.every = every
        self.sampling = False
        self.spent: dict[str, float] = {}
        self.inside: list[float] = []

    def loss(self, inner: Loss) -> Loss:
        return self._timed(inner, "loss")

    def grad(self, inner: Grad) -> Grad:
        return self._timed(inner, "grad")

    def update(self, inner: Update) -> Update:
        return self._timed(inner, "update")

    def step(self, inner: Step) -> Step:
        if self.every == 0:
            return inner
        timed = self._timed(inner, "other")

        def sampled(state: State, batch: Any) -> Any:
            if state.step % self.every:
                return inner(state, batch)
            self.sampling, self.spent, self.inside = True, dict.fromkeys(PARTS, 0.0), []
            try:
                metrics = timed(state, batch)
            finally:
                self.sampling = False
            return {**metrics, **{f"time/{part}": seconds for part, seconds in self.spent.items()}}

        return sampled

    def _timed(self, inner: T, part: str) -> T:
        """`inner`, its own time (without that of parts within it) added to `part` on sampled steps."""
        if self.every == 0:
            return inner

        def timed(state: State, argument: Any) -> Any:
            if not self.sampling:
                return inner(state, argument)
            self.inside.append(0.0)
            start = _now(state)
            result = inner(state, argument)
            elapsed = _now(state) - start
            self.spent[part] += elapsed - self.inside.pop()
            if self.inside:
                self.inside[-1] += elapsed
            return result

        return cast(T, timed)


def _now(state: State) -> float:
    if state.device.type == "cuda":
        torch.cuda.synchronize(state.device)
    return time.perf_counter()
