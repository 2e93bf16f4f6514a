"""Building a program: the model from the seed, placed, changed by middleware, then the optimizer from names."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..core.compose import MAPPINGS, Declared, Placed, arrange, declared
from ..core.errors import ComposeError, SpecError, nearest
from ..core.parts import Part, as_part, build
from ..core.plan import MESH, distinct, mesh_declared
from ..core.random import derive
from ..core.registry import registry
from .mappings import label
from .mesh.group import join, launched
from .mesh.one import OneProcess
from .placement import find_device
from .program import Program
from .state import Builder, State


def _make_middleware(items: Iterable[Any], offers: Mapping[str, Any]) -> list[tuple[str, Any, Declared]]:
    """(name, middleware, what it declares) of each item: a Part, a class, a function or a live object."""
    made: list[tuple[str, Any, Declared]] = []
    for i, item in enumerate(items):
        part = as_part(item)
        path = f"middleware.{i}"
        found = build(part, "middleware", path=path, offers=offers)
        name = _name(part, found)
        own = declared(found.func if isinstance(found, functools.partial) else found)
        if not own.wraps and not any(hasattr(found, hook) for hook in ("setup", "lend", "begin")):
            raise ComposeError(f"{path}: {name!r} wraps none of {', '.join(MAPPINGS)} and has no setup: it would do nothing")
        made.append((name, found, own))
    names = distinct(name for name, _, _ in made)
    return [(name, found, own) for name, (_, found, own) in zip(names, made, strict=True)]


def _name(part: Any, made: Any) -> str:
    """The name that others' `before` and `after` mean: as it was written, or as what was made is registered."""
    if isinstance(part, Part) and isinstance(part.use, str) and ":" not in part.use:
        return part.use.rpartition("/")[2]
    if isinstance(made, functools.partial):
        return registry.label(made.func)
    return registry.label(made if hasattr(made, "__name__") else type(made))


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
    offers: Mapping[str, Any] | None = None,
) -> Program:
    """Build a program for one's own loop (`Run` calls the same).

    model: an `nn.Module`, or a part that makes one; task: a part or any `(model, batch) -> (total, weight, outputs)`;
    optimizer, schedule: parts (`use("adamw", lr=1e-3)`, `use(torch.optim.SGD, lr=0.1)`) or functions of the parameters (the
    optimizer); middleware: parts, classes, functions or objects, outermost first; mesh: a part or an object of that kind
    (None: data parallel over the ranks that a launcher started, where it did; `OneProcess()`: this process alone);
    micro_shards, strict: as in a Spec. offers: values for arguments that parts leave open (`total_steps`, `steps_per_epoch`).
    Order: model from the seed, placed, changed by middleware, then the optimizer from names, then the schedule.
    Raises SpecError and ComposeError naming the path.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        raise SpecError(
            "optimizer: a live optimizer holds parameters of before the model was placed; "
            f"write use({type(optimizer).__module__}.{type(optimizer).__name__}, ...) instead"
        )
    offers = {"seed": seed, **(offers or {})}
    ranks = _mesh(mesh, micro_shards, strict, offers)
    if launched():  # before the device is chosen: each rank has its own
        join(getattr(ranks, "timeout", None))
    where = find_device(str(device)) if not isinstance(device, torch.device) else device
    if ranks is not None:
        ranks.join(where, micro_shards, strict)
    torch.manual_seed(derive(seed, "middleware"))  # one may make a module of its own, such as a teacher
    made_middleware = _make_middleware(middleware, offers)
    placed = _arranged(made_middleware if ranks is None else [*made_middleware, (MESH, ranks, mesh_declared(ranks))])
    if ranks is not None and hasattr(ranks, "accept"):
        ranks.accept([p for p, _ in placed])
    torch.manual_seed(derive(seed, "model"))
    net = build(as_part(model), "model", path="model", offers=offers)
    if not isinstance(net, nn.Module):
        raise SpecError(f"model: an nn.Module is wanted, and {label(model)} gave a {type(net).__name__}")
    net.to(where)
    builder = Builder(net, seed, where, strict=strict)
    for _, made in placed:
        if made is not ranks and hasattr(made, "setup"):
            made.setup(builder)
    if ranks is not None:  # the last: what is placed is the model as it will be
        ranks.setup(builder)
    state = State(builder.model, seed, where)
    _optimize(state, builder, optimizer, schedule, {**offers, **getattr(ranks, "offers", {})}, getattr(ranks, "try_rule", None))
    made_task = build(as_part(task), "task", path="task", offers=offers)
    return Program(state, made_task, placed)


def _mesh(mesh: Any, micro_shards: int | None, strict: bool, offers: Mapping[str, Any]) -> Any:
    """The mesh, or None for one process that has nothing to deal out."""
    if type(mesh) is OneProcess:  # said by those who are ranks and want a program of their own all the same
        if micro_shards is None and not strict:
            return None
        alone = build(Part("ranks"), "mesh", path="mesh", offers=offers)
        alone.alone = True
        return alone
    if mesh is None:
        if not launched() and micro_shards is None and not strict:
            return None
        mesh = Part("ranks", {"replicate": -1})
    part = as_part(mesh)
    return build(Part("ranks", part) if isinstance(part, Mapping) else part, "mesh", path="mesh", offers=offers)


def _arranged(made: list[tuple[str, Any, Declared]]) -> list[tuple[Placed, Any]]:
    return [(p, made[p.index][1]) for p in arrange([(name, own) for name, _, own in made])]


def _optimize(
    state: State, builder: Builder, optimizer: Any, schedule: Any, offers: Mapping[str, Any], try_rule: Any = None
) -> None:
    groups = builder.parameter_groups()
    state.names = [name for group in groups for name in group["names"]]
    state.parameters = [parameter for group in groups for parameter in group["params"]]
    plain = len(groups) == 1 and set(groups[0]) == {"params", "names"}
    given = state.parameters if plain else [{k: v for k, v in g.items() if k != "names"} for g in groups]
    make = functools.partial(build, as_part(optimizer), "optimizer", path="optimizer", offers=offers)
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
        state.schedule = build(as_part(schedule), "schedule", state.optimizer, path="schedule", offers=offers)
