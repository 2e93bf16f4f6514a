"""The driver of programs on ranks: specs built in float64 on a mesh or without one, their sums, gradients and updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...core.axes import AXES
from ...core.errors import ComposeError, SpecError
from ...core.laws import Subject, Trial
from ...core.plan import plan
from ...core.spec import Spec
from ...core.values import Part
from ...data.stream import size
from ...laws.compare import Array
from ...laws.drivers import Sums
from ...laws.program_inputs import injected
from ..build import build_program
from ..laws.compare import arrays
from ..mappings import Metrics
from ..mesh.group import Group, patience
from ..mesh.one import OneProcess, whole
from ..placement import place
from ..program import Program
from ..turns import TurnsProgram


def complete(subject: Subject) -> Subject:
    """The subject with its driver."""
    return replace(subject, driver=DRIVER)


class Doubled:
    """Middleware: the model in float64, before it is placed."""

    def setup(self, builder: Any) -> None:
        builder.model.double()


@contextmanager
def alone() -> Iterator[None]:
    """Within it no process group is seen: what asks whether there are ranks, and reduces over them, finds one process."""
    members: Any = dist.GroupMember
    held, members.WORLD = members.WORLD, None
    try:
        yield
    finally:
        members.WORLD = held


class Driven:
    """A program as the laws of ranks drive it (`mapsto.laws.drivers.RankedProgram`); one: it is of one process, alone."""

    def __init__(self, made: Program, exact: bool, one: bool) -> None:
        self.made, self.exact, self.one = made, exact, one
        self.company: Any = alone if one else nullcontext
        self.metrics: Metrics = {}

    @property
    def reader_args(self) -> Mapping[str, Any]:
        return self.made.reader_args

    def _placed(self, batch: Any) -> Any:
        if isinstance(batch, list):
            return [self._placed(part) for part in batch]
        found = place(batch, self.made.state.device)
        if self.exact:
            found.update({n: v.double() for n, v in found.items() if isinstance(v, Tensor) and v.is_floating_point()})
        return found

    @property
    def turns(self) -> list[Driven]:
        if not isinstance(self.made, TurnsProgram):
            return [self]
        return [Driven(turn, self.exact, self.one) for turn in self.made.turns.values()]

    def step(self, batch: Any) -> Metrics:
        with self.company():
            return self.made.step(self._placed(batch))

    def sums(self, batches: Mapping[int, Any]) -> Sums:
        state, total, weight = self._cleared(), 0.0, 0.0
        with self.company(), state.sums():
            for shard, batch in batches.items():
                if size(batch):
                    state.shard = shard
                    self.metrics = self.made.grad(state, self._placed(batch))
                    value, counted = self.metrics["loss"]
                    total, weight = total + float(value), weight + float(counted)
        state.shard = 0
        return Sums(self.gradients(), total, weight)

    def _cleared(self) -> Any:
        state = self.made.state
        state.clear()
        state.skip = None
        return state

    def put(self, gradients: Mapping[str, Array | None], total: float, weight: float) -> None:
        for name, parameter in zip(self.made.state.names, self.made.state.parameters, strict=True):
            found = gradients.get(name)
            parameter.grad = None if found is None else torch.tensor(found)
        pair = torch.tensor(total, dtype=torch.float64), torch.tensor(weight, dtype=torch.float64)
        self.metrics = {**self.metrics, "loss": pair}

    def grad(self, batch: Any) -> None:
        with self.company():
            self.metrics = self.made.grad(self._cleared(), self._placed(batch))

    def gradients(self) -> dict[str, Array | None]:
        pairs = zip(self.made.state.names, self.made.state.parameters, strict=True)
        found: dict[str, Array | None] = arrays({n: None if p.grad is None else self._whole(p.grad) for n, p in pairs})
        return found

    def update(self) -> dict[str, float]:
        with self.company():
            found = self.made.update(self.made.state, self.metrics)
        self.made.state.step += 1
        return self.made.fetch([found])

    def loss(self, batch: Any) -> tuple[float, float]:
        with self.company(), self.made.evaluating() as state:
            total, weight, _ = self.made.loss(state, self._placed(batch))
        return float(total), float(weight)

    def parameters(self) -> dict[str, Array]:
        own = None if self.made.state.inputs is None else set(self.made.state.names)
        named = self.made.model.named_parameters()
        found: dict[str, Array] = arrays({n: whole(p).clone() for n, p in named if own is None or n in own})
        return found

    def holds(self) -> dict[str, Array]:
        named = self.made.model.named_parameters(remove_duplicate=False)
        found: dict[str, Array] = arrays({n: self._whole(p) for n, p in named})
        return found

    def _whole(self, tensor: Tensor) -> Tensor:
        """A copy of the full value, as the program's mesh gives it."""
        full: Tensor = self.made.state.mesh.whole(tensor.detach())
        return full.detach().clone()

    def names(self) -> list[list[str]]:
        found: dict[int, list[str]] = {}
        for name, parameter in self.made.model.named_parameters(remove_duplicate=False):
            found.setdefault(id(parameter), []).append(name)
        return list(found.values())

    def state(self) -> dict[str, Array]:
        state, kept = self.made.state, self.made.optimizer.state
        named = {f"model.{n}": t for n, t in self.made.model.state_dict().items()}
        for name, parameter in zip(state.names, state.parameters, strict=True):
            named |= {f"optimizer.{name}.{key}": value for key, value in kept.get(parameter, {}).items()}
        found: dict[str, Array] = arrays({n: t.detach().clone() for n, t in named.items() if isinstance(t, Tensor)})
        return found


class Driver:
    """How programs are built on ranks (`mapsto.laws.drivers.ProgramDriver`)."""

    def build(
        self,
        trial: Trial,
        spec: Spec,
        reader: Any,
        *,
        axes: Mapping[str, int] | None = None,
        middleware: Sequence[Any] | None = None,
        exact: bool = True,
        evaluating: bool = False,
        micro_shards: int | None = None,
        strict: bool = False,
        stated: bool = False,
    ) -> Driven:
        chosen = spec.middleware if middleware is None else middleware
        mesh = None if axes is None else _stated(spec, axes) if stated else Part("ranks", {**_options(spec, trial), **axes})
        try:
            with alone() if axes is None else nullcontext():
                made = program_of(
                    spec,
                    reader,
                    middleware=[Doubled(), *chosen] if exact else chosen,
                    mesh=mesh,
                    micro_shards=micro_shards,
                    strict=strict,
                )
        except (SpecError, ComposeError) as error:  # said before a step is taken, which is no wrong result
            if axes is not None:
                trial.skip(f"it is refused on {'several ranks' if not strict else 'ranks in strict mode'}: {error}")
            raise
        if evaluating:
            made.model.eval()
        return Driven(made, exact, axes is None)

    def gather(self, value: Any) -> list[Any]:
        return Group().gather(value)

    def patience(self, seconds: float) -> AbstractContextManager[None]:
        return patience(seconds)


def program_of(spec: Spec, reader: Any, *, middleware: Sequence[Any] | None = None, mesh: Any = None, **more: Any) -> Program:
    """The program of the spec on the CPU for a few steps of the reader; middleware, mesh: others than none and one process.

    more: what else `build_program` takes. Of a spec of turns each turn has the middlewares that are given and wrap an update.
    """
    turns = spec.turns
    if turns is not None and middleware is not None:
        given = [m for m in middleware if m not in spec.middleware]
        inner = [m for m in given if {"loss", "grad", "update"} & set(declared_by(m))]
        kept = bool(middleware) or not spec.middleware
        turns = {n: {**t, "middleware": [*inner, *(t.get("middleware", ()) if kept else ())]} for n, t in turns.items()}
        middleware = [m for m in middleware if m not in inner]
    return build_program(
        spec.model,
        spec.task,
        spec.optimizer,
        spec.schedule,
        spec.middleware if middleware is None else middleware,
        seed=spec.seed,
        device="cpu",
        mesh=OneProcess() if mesh is None else mesh,
        injected=injected(spec, reader),
        turns=turns,
        **more,
    )


def declared_by(part: Any) -> tuple[str, ...]:
    """The mappings that a middleware of a list wraps."""
    return plan([part])[0].declared.wraps


def _options(spec: Spec, trial: Trial) -> dict[str, Any]:
    stated = spec.mesh.args if isinstance(spec.mesh, Part) else {}
    unused = bool(stated.get("unused_parameters")) or trial.has("unused_parameters")
    return {"unused_parameters": unused, **({"blocks": stated["blocks"]} if "blocks" in stated else {})}


def _stated(spec: Spec, axes: Mapping[str, int]) -> Part:
    """The spec's own mesh with axes of these sizes, sums in the parameters' own precision, and as many stages begun anew."""
    args = {n: v for n, v in spec.mesh.args.items() if n not in ("precision", "offload", *AXES)} | dict(axes)
    if names := args.get("split"):
        begun = axes["pipeline"] * (args.get("stages") or (2 if args.get("schedule") == "interleaved" else 1))
        args["split"] = [names[i * (len(names) + 1) // begun - 1] for i in range(1, begun)]
    return Part(spec.mesh.use, args)


DRIVER = Driver()
