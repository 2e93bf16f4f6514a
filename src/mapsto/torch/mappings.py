"""The four mappings as they are without middleware, and the onion that middleware makes of them.

loss (state, batch) -> (total, weight, outputs); grad (state, batch) -> metrics; update (state, metrics) -> metrics;
step (state, batch) -> metrics. Only `grad` divides by the weight, and only once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.compose import Declared
from ..core.errors import ComposeError, LossError
from .losses import Weight, describe
from .state import State

Batch = Mapping[str, Any]
Metrics = dict[str, Any]
Loss = Callable[[State, Batch], tuple[Tensor, Weight, Any]]
Grad = Callable[[State, Batch], Metrics]
Update = Callable[[State, Metrics], Metrics]
Step = Callable[[State, Batch], Metrics]


def label(made: Any) -> str:
    """What people call a middleware, task or factory."""
    function = made.func if isinstance(made, functools.partial) else made
    return getattr(function, "__name__", type(made).__name__)


def fold(mapping: str, base: Any, middleware: Sequence[tuple[Any, Declared]]) -> Any:
    """Wrap `base` by every middleware that wraps this mapping; the first of the list ends outermost."""
    outer = base
    for made, own in reversed(middleware):
        if mapping not in own.wraps:
            continue
        inner = outer
        outer = getattr(made, mapping)(inner) if hasattr(made, mapping) else made(inner)
        if not callable(outer):
            raise ComposeError(
                f"middleware {label(made)} returned a {type(outer).__name__} for {mapping}, which cannot be called"
            )
    return outer


def base_loss(task: Any) -> Loss:
    def loss(state: State, batch: Batch) -> tuple[Tensor, Weight, Any]:
        result = task(state.model, batch)
        if type(result) is not tuple or len(result) != 3:
            got = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
            raise LossError(f"task {label(task)} returned {got}, and (total, weight, outputs) is wanted")
        if not isinstance(result[0], Tensor) or result[0].dim():
            raise LossError(
                f"task {label(task)} returned a total that is {describe(result[0])}, and the summed loss, a scalar, is wanted"
            )
        return result

    return loss


def base_grad(loss: Loss) -> Grad:
    seeds: dict[tuple[Any, ...], Tensor] = {}

    def seed(total: Tensor, weight: float) -> Tensor:
        key = (weight, total.dtype, total.device)
        if key not in seeds:
            if len(seeds) > 256:
                seeds.clear()
            seeds[key] = torch.tensor(1.0 / weight if weight else 0.0, dtype=total.dtype, device=total.device)
        return seeds[key]

    def grad(state: State, batch: Batch) -> Metrics:
        if state.mesh.pipeline_forward is not None:
            forwarded: Metrics = state.mesh.pipeline_forward(state, batch, loss)
            return forwarded
        state.reseed()
        total, weight, _ = loss(state, batch)
        if state.mesh.absent:  # a stand-in: all ranks compute something, and this weighs nothing
            total, weight = total * 0, weight * 0
        if state.summing:
            torch.autograd.backward(total, inputs=state.inputs)
        elif isinstance(weight, Tensor):  # nothing to learn from gives a zero gradient, not 0/0
            exact = weight.to(torch.promote_types(total.dtype, torch.float32))
            torch.autograd.backward(total, torch.where(exact == 0, 0.0, 1.0 / exact).to(total.dtype), inputs=state.inputs)
        else:
            torch.autograd.backward(total, seed(total, weight), inputs=state.inputs)
        return {"loss": (total.detach(), weight)}

    return grad


def base_update() -> Update:
    def update(state: State, metrics: Metrics) -> Metrics:
        if state.skip is None:
            state.optimizer.step()
        else:
            step_unless(state.optimizer, state.skip)
            metrics = {**metrics, "skipped": state.skip}
        schedule = state.schedule
        if schedule is not None and not awaits_metric(schedule):
            schedule.step()
        return metrics

    return update


def step_unless(optimizer: Any, skip: Tensor) -> None:
    """Step unless the flag is above 0: on the device where the kernel is fused, else by reading it.

    A fused SGD whose first step is skipped would keep a momentum buffer that was never written, so an optimizer that has
    no state yet and will have some is not left to the kernel.
    """
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    if fused and (optimizer.state or not any(group.get("momentum") for group in optimizer.param_groups)):
        optimizer.grad_scale, optimizer.found_inf = None, skip.float()
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf
    elif bool(skip > 0):
        optimizer._opt_called = True  # the schedule counts steps: it need not warn that the optimizer took none
    else:
        optimizer.step()


def closure_update(grad: Grad) -> Update:
    """For optimizers that evaluate the objective themselves, such as L-BFGS."""

    def update(state: State, metrics: Metrics) -> Metrics:
        batch = state.batch
        assert batch is not None
        first: Metrics = {}

        def closure() -> Tensor:
            state.clear()
            found = grad(state, batch)
            if not first:
                first.update(found)
            total, weight = found["loss"]
            mean: Tensor = total / weight
            return mean

        step: Any = state.optimizer.step
        step(closure)
        if state.schedule is not None and not awaits_metric(state.schedule):
            state.schedule.step()
        return {**metrics, **first}

    return update


def base_step(grad: Grad, update: Update, closure: bool) -> Step:
    def step(state: State, batch: Batch) -> Metrics:
        for parameter in state.parameters:
            parameter.grad = None
        state.skip = None
        metrics = update(state, grad(state, batch))
        state.step += 1
        return metrics

    def closing(state: State, batch: Batch) -> Metrics:
        state.batch, state.skip = batch, None
        try:
            metrics = update(state, {})
        finally:
            state.batch = None
        state.step += 1
        return metrics

    return closing if closure else step


def awaits_metric(schedule: Any) -> bool:
    return isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step` has no default for its closure."""
    parameters = list(inspect.signature(type(optimizer).step).parameters.values())[1:]
    return any(p.name == "closure" and p.default is p.empty for p in parameters)
