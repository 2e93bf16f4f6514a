"""The law of a parameter server: workers in step, and servers that hold parts of the parameters, are one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor

from ...core.compose import Declared
from ...core.errors import SpecError
from ...core.laws import Laws, Trial
from ...core.parts import resolve
from ...core.spec import Spec
from ...core.values import Part, use
from ...data.stream import read
from ...laws.program_inputs import STEPS, injected, reader_of, spec_of, thirteen
from ...servers.program import ServedProgram
from ..drivers.program import program_of
from ..losses import Weight
from ..mappings import Batch, Loss
from ..program import Program
from ..servers.mesh import Servers
from ..state import Builder, State
from .compare import differs, same

laws = Laws("program")


class Float64:
    """Middleware: the model and what it is given in float64, in whichever process."""

    __mapsto__ = Declared(wraps=("loss",))

    def setup(self, builder: Builder) -> None:
        builder.model.double()

    def loss(self, inner: Loss) -> Loss:
        def in_float64(state: State, batch: Batch) -> tuple[Tensor, Weight, Any]:
            fields = batch.items()
            return inner(state, {n: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in fields})

        return in_float64


@contextmanager
def _served(trial: Trial) -> Iterator[tuple[Program, Any, ServedProgram, int]]:
    """One process's program of the spec, its reader, the same program on servers in step, and the number of micro-shards."""
    spec = spec_of(trial)
    if not isinstance(spec.mesh, Part) or resolve(spec.mesh, "mesh", "mesh")[0] is not Servers:
        trial.skip("its mesh is not one of servers")
    mesh: Mapping[str, Any] = {**spec.mesh.args, "staleness": 0, "address": None, "folder": None}
    shards = spec.micro_shards or int(mesh.get("workers", 2))
    changed: Spec = dataclasses.replace(
        spec,
        middleware=(use(Float64), *spec.middleware),
        data={**spec.data, "train": thirteen(spec.data["train"])},
        mesh=Part("servers", mesh),
        micro_shards=shards,
        device="cpu",
    )
    try:
        with trial.component("building the program"):
            reader = reader_of(spec)
            served = Servers(**mesh).program(changed, injected(spec, reader))
            one = program_of(changed, reader, mesh=use("ranks"), micro_shards=shards)
    except SpecError as error:
        trial.skip(f"servers refuse it: {error}")
    with closing(served):
        yield one, reader, served, shards


@laws.law(
    "S7",
    "served",
    priority=1,
    tolerance="T1",
    seconds=240,
    why="A server has the optimizer and the middlewares of `update` over some rows of some parameters. What takes those "
    "for the whole trains another model, and another one for each number of servers.",
    satisfy="Say `elementwise = True` only of what acts on each element for itself; ask state.mesh.norm for norms, or let "
    "mesh.split=false keep parameters whole.",
    catches=("a norm of one server's rows", "statistics over a parameter that is split"),
)
def served(trial: Trial) -> None:
    """On the spec's servers, with workers in step, weights after three updates are those of one process in float64."""
    with _served(trial) as (one, reader, many, shards):
        before = _weights(one)
        for step in range(STEPS):
            with trial.case(step=step, servers=many.options.servers, workers=many.options.workers, micro_shards=shards):
                with trial.component("a step of one process"):
                    one.step(read(reader, step, tuple(range(shards)), shards))
                with trial.component("a step of the servers"):
                    many.step()
                same(trial, "weights on the servers", _weights(many), _weights(one), tolerance="T1")
        trial.control("training changed the weights", differs(_weights(one), before))


def _weights(program: Program | ServedProgram) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in program.weights().items()}
