"""The non-finite guard: a step whose loss or gradient is not finite changes nothing, and says where that began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.compose import middleware
from ...core.doors import typed
from ...core.ranges import Count
from ..mappings import Batch, Grad, Metrics, Step, needs_closure
from ..state import State
from .copies import kept
from .diagnosis import NonfiniteError, diagnose
from .gradients import check_and_scale, either


@dataclass
class _Window:
    """The steps since the flags were last read; `bad` is their union."""

    steps: list[tuple[int, Batch]] = field(default_factory=list)
    flags: list[Tensor] = field(default_factory=list)
    bad: Tensor | None = None


@middleware("nonfinite", provides="nonfinite_guard", before=("mixed_precision", "sam", "mesh", "accumulate"))
class Nonfinite:
    """step -> step that a loss or gradient which is not finite stops before it changes a weight or a buffer.

    action `raise`: a NonfiniteError (a LossError) names the first module, in forward order, whose output is not finite
    while its inputs are, or else the first, in backward order, whose gradient is not; found by running the same batch under
    the same random streams again with hooks. action `skip`: the step changes nothing and counts in the metric `skipped`.
    every: `raise` reads one flag from the device every so many steps (and before evaluating or saving). From the first bad
    step until then all updates are skipped, and the batches since the last reading are kept, so nothing is lost by a
    larger one; optimizers that are not fused read the flag at each step all the same. `skip` reads nothing of its own.
    A step also costs a copy of the model's buffers and a pass over the gradients.
    It looks at true gradients, before any clipping. What `mixed_precision` overflows at a loss scale of 1 or more is left
    to its scaler. Raises SpecError.
    """

    @typed
    def __init__(self, every: Count = 1, action: Literal["raise", "skip"] = "raise") -> None:
        self.every, self.skips = every, action == "skip"
        self.edits_gradients = self.skips
        self.window = _Window()

    def begin(self, state: State) -> None:
        self.state = state
        self.closure = needs_closure(state.optimizer)
        self.one = torch.ones((), dtype=torch.float32, device=state.device)

    def grad(self, inner: Grad) -> Grad:
        self.inner = inner

        def guarded(state: State, batch: Batch) -> Metrics:
            buffers = list(state.model.buffers())
            saved = [b.clone() for b in buffers]
            metrics = inner(state, batch)
            flag = self._flag(state, metrics)
            if self.skips:
                self._undo(buffers, saved, flag)
                state.skip = either(state.skip, flag)
                total, weight = metrics["loss"]
                return {**metrics, "loss": (torch.where(flag > 0, 0.0, total), _unless(flag, weight))}
            window = self.window
            window.bad = either(window.bad, flag)
            window.flags.append(flag)
            window.steps.append((state.step, batch))
            self._undo(buffers, saved, window.bad)
            if self.every > 1 and not self.closure:
                state.skip = either(state.skip, window.bad)
            if self.closure or len(window.steps) >= self.every:
                self._read()
            return metrics

        return guarded

    def step(self, inner: Step) -> Step:
        def protected(state: State, batch: Batch) -> Metrics:
            if not self.closure:
                return inner(state, batch)
            saved = [p.detach().clone() for p in state.parameters]  # a closure is evaluated at weights that are being tried
            try:
                return inner(state, batch)
            except NonfiniteError:
                torch._foreach_copy_([p.detach() for p in state.parameters], saved)
                raise

        return protected

    @contextmanager
    def evaluation_weights(self, state: State) -> Iterator[None]:  # noqa: ARG002
        """What was not read yet is read before an evaluation."""
        self._read()
        yield

    def state_dict(self) -> dict[str, Any]:
        """Nothing is kept; what was not read yet is read before a checkpoint."""
        self._read()
        return {}

    def load_state_dict(self, tree: Mapping[str, Any]) -> None:  # noqa: ARG002
        self.window = _Window()

    def _flag(self, state: State, metrics: Metrics) -> Tensor:
        flag = state.mesh.agree(check_and_scale(state.parameters, self.one))
        if "loss_scale" in metrics:
            flag = torch.where(metrics["loss_scale"] < 1, flag, 0.0)
        return torch.maximum(flag, (~torch.isfinite(metrics["loss"][0])).to(flag.dtype))

    @staticmethod
    def _undo(buffers: list[Tensor], saved: list[Tensor], bad: Tensor) -> None:
        """Put the buffers back where the flag is above 0, on the device."""
        for buffer, before in zip(buffers, saved, strict=True):
            buffer.copy_(torch.where(bad > 0, before, buffer))

    def _read(self) -> None:
        window, self.window = self.window, _Window()
        flags = torch.stack(window.flags).tolist() if window.flags else []
        for (step, batch), flag in zip(window.steps, flags, strict=True):
            if flag > 0:
                raise self._run_again(self.state, step, batch)

    def _run_again(self, state: State, step: int, batch: Batch) -> NonfiniteError:
        """The same step again, watched; the state is left as it was."""
        before = state.step, state.shard, state.skip
        state.step, state.shard = step, 0
        state.clear()
        try:
            with kept(state.model.buffers()), torch.compiler.set_stance("force_eager"):
                return diagnose(self.inner, state, batch)
        finally:
            state.step, state.shard, state.skip = before
            state.clear()


def _unless(flag: Tensor, weight: Any) -> Tensor:
    """The weight, or 0 where the flag is above 0."""
    return torch.where(flag > 0, torch.zeros((), dtype=torch.float64, device=flag.device), weight)
