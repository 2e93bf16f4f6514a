"""The program: four nested mappings over one state, built once.

loss (state, batch) -> (total, weight, outputs); grad (state, batch) -> metrics; update (state, metrics) -> metrics;
step (state, batch) -> metrics. Middleware wraps any of them; the onion is folded here and nowhere else.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.compose import MAPPINGS, Declared, Placed, arrange, declared
from ..core.errors import ComposeError, LossError, MapstoError, SpecError, nearest
from ..core.parts import Part, as_part, build
from ..core.random import derive
from ..core.registry import snake
from .blame import explain
from .evaluate import evaluate, fetch, panels, predict
from .losses import Weight
from .placement import find_device, place
from .saving import program_state, restore_program, weights
from .state import Builder, State

Batch = Mapping[str, Any]
Metrics = dict[str, Any]
Loss = Callable[[State, Batch], tuple[Tensor, Weight, Any]]
Grad = Callable[[State, Batch], Metrics]
Update = Callable[[State, Metrics], Metrics]
Step = Callable[[State, Batch], Metrics]


class Program:
    """A built program. Made by `build_program`; `program.step(batch)` is one step in place.

    model, optimizer, schedule and state may be used directly by one's own loop; `loss`, `grad`, `update` and `step_` are
    the composed mappings.
    """

    def __init__(self, state: State, task: Any, middleware: Sequence[tuple[Placed, Any]]) -> None:
        self.state, self.task, self.seed = state, task, state.seed
        self.middleware = {placed.name: made for placed, made in middleware}
        self.plan = [placed for placed, _ in middleware]
        closure = _needs_closure(state.optimizer)
        if closure:
            _refuse_with_closure(state.optimizer, self.middleware)
        folded = [(made, placed.declared) for placed, made in middleware]
        self.loss: Loss = _fold("loss", _base_loss(task), folded)
        self.grad: Grad = _fold("grad", _base_grad(self.loss), folded)
        self.update: Update = _fold("update", _closure_update(self.grad) if closure else _base_update(), folded)
        self.step_: Step = _fold("step", _base_step(self.grad, self.update, closure), folded)
        for made in self.middleware.values():
            if hasattr(made, "begin"):
                made.begin(state)

    @property
    def model(self) -> nn.Module:
        return self.state.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.state.optimizer

    @property
    def schedule(self) -> Any:
        return self.state.schedule

    @property
    def position(self) -> int:
        """Steps taken, which is the position of the next global batch."""
        return self.state.step

    # -- training ----------------------------------------------------------------------------------------------------
    def step(self, batch: Batch | tuple[Any, Any]) -> Metrics:
        """One step in place on a batch of arrays or tensors; the metrics stay on the device (see `fetch`).

        Raises DataError where the batch does not fit the model, naming the layer and the shapes.
        """
        state = self.state
        try:
            return self.step_(state, place(batch, state.device))
        except (MapstoError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise explain(error, state, batch) from error

    @staticmethod
    def fetch(window: Sequence[Metrics]) -> dict[str, float]:
        """The metrics of several steps as floats, copied from the device together: pairs averaged exactly, scalars by step."""
        return fetch(window)

    def rates(self) -> dict[str, float]:
        """The learning rate of each parameter group."""
        groups = self.state.optimizer.param_groups
        if len(groups) == 1:
            return {"lr": float(groups[0]["lr"])} if "lr" in groups[0] else {}
        return {f"lr/{i}": float(group["lr"]) for i, group in enumerate(groups) if "lr" in group}

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Hand evaluation metrics to a schedule that waits for one (`ReduceLROnPlateau`)."""
        schedule = self.state.schedule
        if schedule is not None and _awaits_metric(schedule):
            name = getattr(schedule, "mapsto_metric", "valid/loss")
            if name not in metrics:
                raise SpecError(f"schedule: {type(schedule).__name__} waits for {name!r}; {nearest(name, metrics)}")
            schedule.step(metrics[name])

    # -- evaluating --------------------------------------------------------------------------------------------------
    @contextmanager
    def evaluating(self) -> Iterator[State]:
        """Within it: evaluation mode, no gradients, and the weights that middleware lends (such as averaged ones)."""
        with ExitStack() as stack:
            for made in self.middleware.values():
                if hasattr(made, "lend"):
                    stack.enter_context(made.lend(self.state))
            stack.enter_context(self.state.evaluating())
            yield self.state

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The loss and the task's metrics over the batches, each record weighed once."""
        return evaluate(self, batches)

    def predict(self, batches: Iterable[Batch]) -> Iterator[dict[str, Any]]:
        """The task's predictions, a dict of NumPy arrays a batch."""
        return predict(self, batches)

    def panels(self, batches: Iterable[Batch]) -> list[dict[str, Any]]:
        """What the task shows in a report, as plain data."""
        return panels(self, batches)

    # -- state -------------------------------------------------------------------------------------------------------
    def weights(self) -> dict[str, Any]:
        """Copies of the canonical weights and buffers as NumPy arrays (CPU tensors where NumPy lacks the dtype)."""
        return weights(self.state.model)

    def state_tree(self) -> dict[str, Any]:
        """The whole state as a tree: model, optimizer by parameter names, schedule, middleware, step."""
        return program_state(self)

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Put such a tree back. Raises CheckpointError naming what is missing, unexpected or does not fit."""
        restore_program(self, tree)

    def summary(self) -> dict[str, Any]:
        """For people: sizes, device and plan."""
        parameters = dict(self.state.model.named_parameters())
        return {
            "model": type(self.state.model).__name__,
            "parameters": sum(p.numel() for p in parameters.values()),
            "trainable": sum(p.numel() for p in self.state.parameters),
            "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in parameters.values()}),
            "device": str(self.state.device),
            "optimizer": type(self.state.optimizer).__name__,
            "schedule": type(self.state.schedule).__name__ if self.state.schedule is not None else None,
            "middleware": [placed.name for placed in self.plan],
        }


# -- the defaults ------------------------------------------------------------------------------------------------------
def _base_loss(task: Any) -> Loss:
    def loss(state: State, batch: Batch) -> tuple[Tensor, Weight, Any]:
        result = task(state.model, batch)
        if type(result) is not tuple or len(result) != 3:
            raise LossError(f"task {_label(task)} returned a {type(result).__name__}, and (total, weight, outputs) is wanted")
        return result

    return loss


def _base_grad(loss: Loss) -> Grad:
    seeds: dict[tuple[Any, ...], Tensor] = {}

    def seed(total: Tensor, weight: float) -> Tensor:
        key = (weight, total.dtype, total.device)
        if key not in seeds:
            if len(seeds) > 256:
                seeds.clear()
            seeds[key] = torch.tensor(1.0 / weight if weight else 0.0, dtype=total.dtype, device=total.device)
        return seeds[key]

    def grad(state: State, batch: Batch) -> Metrics:
        state.reseed()
        total, weight, _ = loss(state, batch)
        if state.summing:
            total.backward()
        elif isinstance(weight, Tensor):  # nothing to learn from gives a zero gradient, not 0/0
            total.backward(torch.where(weight == 0, 0.0, 1.0 / weight).to(total.dtype))
        else:
            total.backward(seed(total, weight))
        return {"loss": (total.detach(), weight)}

    return grad


def _base_update() -> Update:
    def update(state: State, metrics: Metrics) -> Metrics:
        state.optimizer.step()
        schedule = state.schedule
        if schedule is not None and not _awaits_metric(schedule):
            schedule.step()
        return metrics

    return update


def _closure_update(grad: Grad) -> Update:
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
            return total / weight

        step: Any = state.optimizer.step
        step(closure)
        if state.schedule is not None and not _awaits_metric(state.schedule):
            state.schedule.step()
        return {**metrics, **first}

    return update


def _base_step(grad: Grad, update: Update, closure: bool) -> Step:
    def step(state: State, batch: Batch) -> Metrics:
        for parameter in state.parameters:
            parameter.grad = None
        metrics = update(state, grad(state, batch))
        state.step += 1
        return metrics

    def closing(state: State, batch: Batch) -> Metrics:
        state.batch = batch
        try:
            metrics = update(state, {})
        finally:
            state.batch = None
        state.step += 1
        return metrics

    return closing if closure else step


def _awaits_metric(schedule: Any) -> bool:
    return isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step` has no default for its closure."""
    parameters = list(inspect.signature(type(optimizer).step).parameters.values())[1:]
    return any(p.name == "closure" and p.default is p.empty for p in parameters)


def _refuse_with_closure(optimizer: Any, middleware: Mapping[str, Any]) -> None:
    for name, made in middleware.items():
        if getattr(made, "edits_gradients", False):
            raise ComposeError(
                f"middleware {name!r} changes gradients before the update, and {type(optimizer).__name__} evaluates its own "
                "gradients in a closure: leave one of them out"
            )


# -- folding -----------------------------------------------------------------------------------------------------------
def _fold(mapping: str, base: Any, middleware: Sequence[tuple[Any, Declared]]) -> Any:
    """Wrap `base` by every middleware that wraps this mapping; the first of the list ends outermost."""
    outer = base
    for made, own in reversed(middleware):
        if mapping not in own.wraps:
            continue
        inner = outer
        outer = getattr(made, mapping)(inner) if hasattr(made, mapping) else made(inner)
        if not callable(outer):
            raise ComposeError(f"middleware {_label(made)} returned a {type(outer).__name__} for {mapping}, which cannot be called")
    return outer


def _label(made: Any) -> str:
    function = getattr(made, "func", made)
    return getattr(function, "__name__", type(made).__name__)


def _make_middleware(items: Iterable[Any], offers: Mapping[str, Any]) -> list[tuple[str, Any, Declared]]:
    """(name, middleware, what it declares) of each item: a Part, a class, a function or a live object."""
    made: list[tuple[str, Any, Declared]] = []
    for i, item in enumerate(items):
        part = as_part(item)
        path = f"middleware.{i}"
        name = part.name if isinstance(part, Part) else snake(_label(item))
        found = build(part, "middleware", path=path, offers=offers)
        own = declared(found.func if isinstance(found, functools.partial) else found)
        if not own.wraps and not any(hasattr(found, hook) for hook in ("setup", "lend", "begin")):
            raise ComposeError(f"{path}: {name!r} wraps none of {', '.join(MAPPINGS)} and has no setup: it would do nothing")
        label, n = name, 2
        while any(label == other for other, _, _ in made):
            label, n = f"{name}.{n}", n + 1
        made.append((label, found, own))
    return made


def build_program(
    model: Any,
    task: Any = "classification",
    optimizer: Any = "adamw",
    schedule: Any = None,
    middleware: Iterable[Any] = (),
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    offers: Mapping[str, Any] | None = None,
) -> Program:
    """Build a program for one's own loop (`Run` calls the same).

    model: an `nn.Module`, or a part that makes one; task: a part or any `(model, batch) -> (total, weight, outputs)`;
    optimizer, schedule: parts (`use("adamw", lr=1e-3)`, `use(torch.optim.SGD, lr=0.1)`) or functions of the parameters (the
    optimizer); middleware: parts, classes, functions or objects, outermost first. offers: values for arguments that parts
    leave open (`total_steps`, `steps_per_epoch`).
    Order: model from the seed, placed, changed by middleware, then the optimizer from names, then the schedule.
    Raises SpecError and ComposeError naming the path.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        raise SpecError(
            "optimizer: a live optimizer holds parameters of before the model was placed; "
            f"write use({type(optimizer).__module__}.{type(optimizer).__name__}, ...) instead"
        )
    offers = {"seed": seed, **(offers or {})}
    where = find_device(str(device)) if not isinstance(device, torch.device) else device
    placed = _arranged(_make_middleware(middleware, offers))
    torch.manual_seed(derive(seed, "model"))
    net = build(as_part(model), "model", path="model", offers=offers)
    if not isinstance(net, nn.Module):
        raise SpecError(f"model: an nn.Module is wanted, and {_label(model)} gave a {type(net).__name__}")
    net.to(where)
    builder = Builder(net, seed, where)
    for _, made in placed:
        if hasattr(made, "setup"):
            made.setup(builder)
    state = State(builder.model, seed, where)
    _optimize(state, builder, optimizer, schedule, offers)
    made_task = build(as_part(task), "task", path="task", offers=offers)
    return Program(state, made_task, placed)


def _arranged(made: list[tuple[str, Any, Declared]]) -> list[tuple[Placed, Any]]:
    return [(p, made[p.index][1]) for p in arrange([(name, own) for name, _, own in made])]


def _optimize(state: State, builder: Builder, optimizer: Any, schedule: Any, offers: Mapping[str, Any]) -> None:
    groups = builder.parameter_groups()
    state.names = [name for group in groups for name in group["names"]]
    state.parameters = [parameter for group in groups for parameter in group["params"]]
    plain = len(groups) == 1 and set(groups[0]) == {"params", "names"}
    given = state.parameters if plain else [{k: v for k, v in g.items() if k != "names"} for g in groups]
    state.optimizer = build(as_part(optimizer), "optimizer", given, path="optimizer", offers=offers)
    if not isinstance(state.optimizer, torch.optim.Optimizer):
        raise SpecError(f"optimizer: {_label(optimizer)} gave a {type(state.optimizer).__name__}, and a torch.optim.Optimizer is wanted")
    for _, options in builder.groups:
        for key in options:
            if key not in state.optimizer.defaults:
                raise SpecError(
                    f"param_groups: {type(state.optimizer).__name__} has no option {key!r}; {nearest(key, state.optimizer.defaults)}"
                )
    if schedule is not None:
        state.schedule = build(as_part(schedule), "schedule", state.optimizer, path="schedule", offers=offers)
