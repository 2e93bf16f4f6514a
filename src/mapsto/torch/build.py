"""Building a program: the model from the seed, placed, changed by middleware, then the optimizer from names."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..core.compose import MAPPINGS, declared
from ..core.errors import ComposeError, SpecError, nearest
from ..core.parts import Part, as_part, build
from ..core.plan import Placed, implied_mesh, plan
from ..core.random import derive
from ..core.spec import Spec
from .mappings import label
from .mesh.group import join, launched
from .mesh.one import OneProcess
from .placement import find_device
from .program import Program
from .rates import fits
from .saving import take
from .state import Builder, State


def _make_middleware(items: Sequence[Any], placed: Sequence[Placed], injected: Mapping[str, Any]) -> list[Any]:
    """The middlewares of a list, made in the list's order: each item is a Part, a class, a function or a live object.

    Raises ComposeError for one that would do nothing, or that is not what its plan was made from.
    """
    planned = {p.index: p for p in placed}
    made: list[Any] = []
    for i, item in enumerate(items):
        found = build(item, "middleware", path=f"middleware.{i}", injected=injected)
        name, own = planned[i].name, declared(found)
        if not own.wraps and not any(hasattr(found, hook) for hook in ("setup", "evaluation_weights", "lend", "begin")):
            raise ComposeError(
                f"middleware.{i}: {name!r} wraps none of {', '.join(MAPPINGS)} and has no setup: it would do nothing"
            )
        if own != planned[i].declared:
            raise ComposeError(
                f"middleware.{i}: {name!r} declares {own} once it is made, and its order was planned by {planned[i].declared}: "
                "let the class declare it, or give the object itself"
            )
        made.append(found)
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
    mesh: Any = None,
    micro_shards: int | None = None,
    strict: bool = False,
    injected: Mapping[str, Any] | None = None,
    initial: Any = None,
) -> Program:
    """Build a program for one's own loop (`Run` calls the same).

    model: an `nn.Module`, or a part that makes one; task: a part or any `(model, batch) -> (total, weight, outputs)`;
    optimizer, schedule: parts (`use("adamw", lr=1e-3)`, `use(torch.optim.SGD, lr=0.1)`) or functions of the parameters (the
    optimizer); middleware: parts, classes, functions or objects, outermost first; mesh: a part or an object of that kind
    (None: data parallel over the ranks that a launcher started, where it did; `OneProcess()`: this process alone);
    micro_shards, strict: as in a Spec. injected: values for arguments that parts leave open (`total_steps`, `steps_per_epoch`);
    initial: weights to start from (`mapsto.engine.initial.Initial`).
    Order: model from the seed, placed, changed by middleware, then the optimizer from names, then the schedule.
    Raises SpecError and ComposeError naming the path.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        raise SpecError(
            "optimizer: a live optimizer holds parameters of before the model was placed; "
            f"write use({type(optimizer).__module__}.{type(optimizer).__name__}, ...) instead"
        )
    injected = {"seed": seed, **(injected or {})}
    ranks = _mesh(mesh, micro_shards, strict, injected)
    if launched():  # before the device is chosen: each rank has its own
        join(getattr(ranks, "timeout", None))
    where = find_device(str(device)) if not isinstance(device, torch.device) else device
    if ranks is not None:
        ranks.join(where, micro_shards, strict)
    torch.manual_seed(derive(seed, "middleware"))  # one may make a module of its own, such as a teacher
    parts = [as_part(item) for item in middleware]
    planned = plan(parts, ranks)
    made_middleware = [*_make_middleware(parts, planned, injected), ranks]
    placed = [(p, made_middleware[p.index]) for p in planned]
    if ranks is not None and hasattr(ranks, "accept"):
        ranks.accept(planned)
    torch.manual_seed(derive(seed, "model"))
    net = build(as_part(model), "model", path="model", injected=injected)
    if not isinstance(net, nn.Module):
        raise SpecError(f"model: an nn.Module is wanted, and {label(model)} gave a {type(net).__name__}")
    net.to(where)
    builder = Builder(net, seed, where, strict=strict)
    if initial is not None:
        take(net, initial)
    for _, made in placed:
        if made is not ranks and hasattr(made, "setup"):
            made.setup(builder)
    if initial is not None:  # what names fit only now: a part that middleware added, in a checkpoint that has it too
        take(builder.model, initial)
    if ranks is not None:  # the last: what is placed is the model as it will be
        ranks.setup(builder)
    state = State(builder.model, seed, where)
    of_mesh = getattr(ranks, "injected", {})
    _optimize(state, builder, optimizer, schedule, {**injected, **of_mesh}, getattr(ranks, "try_rule", None))
    made_task = build(as_part(task), "task", path="task", injected=injected)
    return Program(state, made_task, placed)


def build_spec(spec: Spec, injected: Mapping[str, Any], initial: Any = None) -> Any:
    """The program of a spec; a mesh that has a `program` of its own, such as one of servers, makes it."""
    mesh = build(spec.mesh, "mesh", path="mesh", injected=injected)
    if hasattr(mesh, "program"):
        if initial is not None:
            raise SpecError("init_from: servers build the model in processes of their own; start such a run without it")
        return mesh.program(spec, injected)
    return build_program(
        spec.model,
        spec.task,
        spec.optimizer,
        spec.schedule,
        spec.middleware,
        seed=spec.seed,
        device=spec.device,
        mesh=mesh,
        micro_shards=spec.micro_shards,
        strict=spec.strict,
        injected=injected,
        initial=initial,
    )


def _mesh(mesh: Any, micro_shards: int | None, strict: bool, injected: Mapping[str, Any]) -> Any:
    """The mesh, or None for one process that has nothing to deal out."""
    if type(mesh) is OneProcess:  # said by those who are ranks and want a program of their own all the same
        if micro_shards is None and not strict:
            return None
        alone = build(Part("ranks"), "mesh", path="mesh", injected=injected)
        alone.alone = True
        return alone
    mesh = implied_mesh(mesh, micro_shards, strict)
    if mesh is None:
        if not launched():
            return None
        mesh = Part("ranks", {"replicate": -1})
    part = as_part(mesh)
    return build(Part("ranks", part) if isinstance(part, Mapping) else part, "mesh", path="mesh", injected=injected)


def _optimize(
    state: State, builder: Builder, optimizer: Any, schedule: Any, injected: Mapping[str, Any], try_rule: Any = None
) -> None:
    groups = builder.parameter_groups()
    state.names = [name for group in groups for name in group["names"]]
    state.parameters = [parameter for group in groups for parameter in group["params"]]
    plain = len(groups) == 1 and set(groups[0]) == {"params", "names"}
    given = state.parameters if plain else [{k: v for k, v in g.items() if k != "names"} for g in groups]
    make = functools.partial(build, as_part(optimizer), "optimizer", path="optimizer", injected=injected)
    if try_rule is not None:
        try_rule(make)
    made: Any = make(given)
    if not isinstance(made, torch.optim.Optimizer):
        gave = type(made).__name__
        raise SpecError(f"optimizer: {label(optimizer)} gave a {gave}, and a torch.optim.Optimizer is wanted")
    state.optimizer, known = made, made.defaults
    for key in (key for _, options in builder.groups for key in options):
        if key not in known:
            raise SpecError(f"param_groups: {type(state.optimizer).__name__} has no option {key!r}; {nearest(key, known)}")
    if schedule is not None:
        state.schedule = build(as_part(schedule), "schedule", state.optimizer, path="schedule", injected=injected)
        fits(state.schedule, injected.get("total_steps"))
