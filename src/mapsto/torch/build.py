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
from ..core.plan import TURNS, Placed, implied_mesh, plan, refuse_beside_turns
from ..core.random import derive
from ..core.spec import Spec
from ..core.turns import Turn, turns_of
from .mappings import label
from .mesh.group import join, launched
from .mesh.one import OneProcess
from .placement import find_device
from .program import Program
from .rates import fits
from .saving import take
from .state import Builder, State
from .turns import TurnsProgram


def _make_middleware(
    items: Sequence[Any], placed: Sequence[Placed], injected: Mapping[str, Any], path: str = "middleware"
) -> list[Any]:
    """The middlewares of a list, made in the list's order: each item is a Part, a class, a function or a live object.

    Raises ComposeError for one that would do nothing, or that is not what its plan was made from.
    """
    planned = {p.index: p for p in placed}
    made: list[Any] = []
    for i, item in enumerate(items):
        found = build(item, "middleware", path=f"{path}.{i}", injected=injected)
        name, own = planned[i].name, declared(found)
        if not own.wraps and not any(hasattr(found, hook) for hook in ("setup", "evaluation_weights", "lend", "begin")):
            raise ComposeError(
                f"{path}.{i}: {name!r} wraps none of {', '.join(MAPPINGS)} and has no setup: it would do nothing"
            )
        if own != planned[i].declared:
            raise ComposeError(
                f"{path}.{i}: {name!r} declares {own} once it is made, and its order was planned by {planned[i].declared}: "
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
    turns: Mapping[str, Any] | None = None,
) -> Program:
    """Build a program for one's own loop (`Run` calls the same).

    model: an `nn.Module`, or a part that makes one; task: a part or any `(model, batch) -> (total, weight, outputs)`;
    optimizer, schedule: parts (`use("adamw", lr=1e-3)`, `use(torch.optim.SGD, lr=0.1)`) or functions of the parameters (the
    optimizer); middleware: parts, classes, functions or objects, outermost first; mesh: a part or an object of that kind
    (None: data parallel over the ranks that a launcher started, where it did; `OneProcess()`: this process alone);
    micro_shards, strict: as in a Spec. injected: values for arguments that parts leave open (`total_steps`, `steps_per_epoch`);
    initial: weights to start from (`mapsto.engine.initial.Initial`); turns: the updates of which a step is made, where they are
    several (see `mapsto.core.turns.Turn`); task, optimizer and schedule are then those of turns that say none.
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
    taken = _Turns(turns_of(turns, task=task, optimizer=optimizer, schedule=schedule), ranks, injected) if turns else None
    if taken is not None:
        refuse_beside_turns(planned)
    if ranks is not None and hasattr(ranks, "accept"):
        ranks.accept(planned if taken is None else [*planned, TURNS])
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
    if taken is not None:
        taken.setup(builder)
    if initial is not None:  # what names fit only now: a part that middleware added, in a checkpoint that has it too
        take(builder.model, initial)
    if ranks is not None:  # the last: what is placed is the model as it will be
        ranks.setup(builder)
    made_task = functools.partial(build, as_part(task), "task", path="task", injected=injected)
    state = State(builder.model, seed, where)
    of_mesh = getattr(ranks, "injected", {})
    if taken is not None:
        return taken.program(state, _no_task if task is None else made_task(), placed, of_mesh)
    _optimize(state, builder, optimizer, schedule, {**injected, **of_mesh}, getattr(ranks, "try_rule", None))
    return Program(state, made_task(), placed)


def _no_task(model: Any, batch: Any) -> Any:  # noqa: ARG001
    raise SpecError("task: a program of turns is evaluated by a task of its own, beside those of its turns, and none is said")


class _Turns:
    """The turns of a program while it is built: middlewares, before there is a model; builders; then programs."""

    def __init__(self, said: Mapping[str, Turn], ranks: Any, injected: Mapping[str, Any]) -> None:
        self.said, self.ranks, self.injected = said, ranks, injected
        self.made: dict[str, list[tuple[Placed, Any]]] = {}
        self.builders: dict[str, Builder] = {}
        for name, turn in said.items():
            path = f"turns.{name}.middleware"
            torch.manual_seed(derive(injected["seed"], "middleware", name))
            items = [as_part(item) for item in turn.middleware]
            planned = plan(items, ranks, path=path)
            made = [*_make_middleware(items, planned, self._injected(turn), path), ranks]
            if ranks is not None and hasattr(ranks, "accept"):
                ranks.accept([*planned, TURNS])
            self.made[name] = [(p, made[p.index]) for p in planned]

    def _injected(self, turn: Turn) -> dict[str, Any]:
        """The length of the run in updates of a turn."""
        counted = {n: max(1, turn.updates(v)) for n, v in self.injected.items() if n in ("total_steps", "steps_per_epoch")}
        return {**self.injected, **counted}

    def setup(self, builder: Builder) -> None:
        """Let middlewares of turns see the model; each has parameter groups of its own."""
        for name, turn in self.said.items():
            own = Builder(builder.model, derive(builder.seed, "turn", name), builder.device, strict=builder.strict)
            own.turn, own.only = name, turn.parameters
            for placed, made in self.made[name]:
                if made is not self.ranks and hasattr(made, "setup"):
                    made.setup(own)
                    if own.model is not builder.model or own.local_updates or own.buckets is not None:
                        what = (
                            "puts another model in its place"
                            if own.model is not builder.model
                            else "exchanges gradients itself"
                        )
                        raise SpecError(f"turns.{name}.middleware: {placed.name!r} {what}, and the model is that of all turns")
            self.builders[name] = own
        self._claimed(builder)
        builder.turns = True

    def _claimed(self, builder: Builder) -> None:
        """Raises SpecError where a trained parameter is of no turn, or of two that do not share it."""
        every = [name for name, _ in builder.trainable()]
        owners: dict[str, list[str]] = {name: [] for name in every}
        for name, own in self.builders.items():
            for parameter, _ in own.trainable():
                owners[parameter].append(name)
        if left := [name for name, of in owners.items() if not of]:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise SpecError(
                f"turns: no turn trains {', '.join(left[:3])}{more}: name them in the parameters of one, or freeze them "
                "(middleware: [{use: freeze, patterns: [...]}])"
            )
        for parameter, of in owners.items():
            if len(of) > 1 and not all(self.said[name].shared for name in of):
                raise SpecError(
                    f"turns.{of[0]}.parameters and turns.{of[1]}.parameters both match {parameter!r}: where both are to "
                    "update it, say shared: true in each"
                )

    def program(self, state: State, task: Any, placed: Sequence[tuple[Placed, Any]], of_mesh: Mapping[str, Any]) -> Program:
        turns: dict[str, Program] = {}
        for name, turn in self.said.items():
            own = State(state.model, self.builders[name].seed, state.device)
            injected = self._injected(turn)
            path = f"turns.{name}"
            given = {**injected, **of_mesh}
            _optimize(
                own, self.builders[name], turn.optimizer, turn.schedule, given, getattr(self.ranks, "try_rule", None), path
            )
            own.inputs = own.parameters
            mesh = None if self.ranks is None else self.ranks.for_turn()
            made = [(p, mesh if m is self.ranks else m) for p, m in self.made[name]]
            turns[name] = Program(own, build(as_part(turn.task), "task", path=f"{path}.task", injected=injected), made)
        known = {id(p): (n, p) for turn in turns.values() for n, p in zip(turn.state.names, turn.state.parameters, strict=True)}
        state.names, state.parameters = ([pair[i] for pair in known.values()] for i in (0, 1))  # type: ignore[assignment]
        return TurnsProgram(state, task, placed, turns, self.said)


def build_spec(spec: Spec, injected: Mapping[str, Any], initial: Any = None) -> Any:
    """The program of a spec; a mesh that has a `program` of its own, such as one of servers, makes it."""
    mesh = build(spec.mesh, "mesh", path="mesh", injected=injected)
    if hasattr(mesh, "program"):
        if initial is not None:
            raise SpecError("init_from: servers build the model in processes of their own; start such a run without it")
        if spec.turns is not None:
            raise SpecError("turns: servers step with one gradient, and turns have several: use mesh.replicate or mesh.shard")
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
        turns=spec.turns,
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
    state: State,
    builder: Builder,
    optimizer: Any,
    schedule: Any,
    injected: Mapping[str, Any],
    try_rule: Any = None,
    path: str = "",
) -> None:
    path = f"{path}." if path else ""
    groups = builder.parameter_groups()
    state.names = [name for group in groups for name in group["names"]]
    state.parameters = [parameter for group in groups for parameter in group["params"]]
    plain = len(groups) == 1 and set(groups[0]) == {"params", "names"}
    given = state.parameters if plain else [{k: v for k, v in g.items() if k != "names"} for g in groups]
    make = functools.partial(build, as_part(optimizer), "optimizer", path=f"{path}optimizer", injected=injected)
    if try_rule is not None:
        try_rule(make)
    made: Any = make(given)
    if not isinstance(made, torch.optim.Optimizer):
        gave = type(made).__name__
        raise SpecError(f"{path}optimizer: {label(optimizer)} gave a {gave}, and a torch.optim.Optimizer is wanted")
    state.optimizer, known = made, made.defaults
    for key in (key for _, options in builder.groups for key in options):
        if key not in known:
            raise SpecError(f"param_groups: {type(state.optimizer).__name__} has no option {key!r}; {nearest(key, known)}")
    if schedule is not None:
        state.schedule = build(as_part(schedule), "schedule", state.optimizer, path=f"{path}schedule", injected=injected)
        fits(state.schedule, injected.get("total_steps"))
