"""The mesh of servers: `mesh: {servers: 2, workers: 4, staleness: 3}`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ...core.doors import typed
from ...core.errors import SpecError, require
from ...core.ranges import Count, NonNegative, Positive, Whole
from ...core.registry import decorator
from ...core.spec import Spec
from ...servers.dealing import blocks
from ...servers.driver import Driver
from ...servers.layout import Actors, Layout
from ...servers.partition import partition
from ...servers.program import ServedProgram
from ..mesh.group import launched
from ..mesh.one import OneProcess
from ..program import Program
from ..state import Builder, State
from .blueprint import Blueprint
from .server import DECLARED, Server
from .tables import sparse_tables
from .trees import packed_part, whole
from .validation import admit, admit_with_tables
from .worker import Worker


@decorator("mesh")("servers")
class Servers:
    """program of one process -> the same program by a parameter server (Li et al. 2014) on Ray actors.

    servers: processes that hold the parameters, in shards balanced by bytes, each with the spec's optimizer over its own;
    workers: processes that compute gradients on their micro-shards of each global batch; staleness: how many steps old
    parameters may be that a gradient is computed with (Ho et al. 2013; 0: synchronous, equal to one process).
    Of `nn.Embedding(sparse=True)` and `EmbeddingBag` only rows that a batch touches travel.
    split: parameters of more than half a server's share are split by rows; address: of a running Ray cluster (`auto`: the
    one of this machine; None: one is started and ended); cpus, gpus: of each worker (a server: cpus); save_every: steps
    between two copies of the servers' shards on disk, besides those at each checkpoint; folder: where they are kept (on
    several machines a shared one); restarts: processes that may be lost and replaced in a run; timeout: seconds that a
    worker or server may take for its part of a step before it counts as lost. Raises SpecError.
    """

    __mapsto__ = DECLARED

    @typed
    def __init__(
        self,
        servers: Count,
        workers: Count = 2,
        staleness: Whole = 0,
        *,
        split: bool = True,
        address: str | None = None,
        cpus: NonNegative = 1.0,
        gpus: NonNegative = 0.0,
        save_every: Count | None = None,
        folder: str | None = None,
        restarts: Whole = 3,
        timeout: Positive = 120.0,
    ) -> None:
        self.servers, self.workers, self.staleness, self.split = servers, workers, staleness, split
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self.save_every, self.folder, self.restarts, self.timeout = save_every, folder, restarts, timeout

    def join(self, *_: Any) -> None:
        """Raises SpecError: `build_program` makes the program of one process, and this is one of many."""
        raise SpecError(
            "mesh: a mesh of servers makes a program of its own: use Run(spec), or Servers(...).program(spec, injected) in a "
            "loop of one's own, whose step() takes no batch"
        )

    def program(self, spec: Spec, injected: Mapping[str, Any]) -> ServedProgram:
        """The program of a spec; the processes start with its first step. Raises SpecError, MissingExtra."""
        require("ray", "ray", "a mesh of servers")
        micro_shards = spec.micro_shards or self.workers
        self._check(spec, micro_shards)
        blueprint = Blueprint.of(spec, micro_shards, injected)
        plain = blueprint.program(_Place())
        trained = dict(zip(plain.state.names, plain.state.parameters, strict=True))
        shards = partition(trained, self.servers, split=self.split)
        for k, rows in enumerate(shards):
            if not any(rows.values()):
                raise SpecError(
                    f"mesh.servers: of {len(trained)} parameters nothing is left for server {k} of {self.servers}: say fewer"
                )
        admit(plain, shards, micro_shards)
        admit_with_tables(plain, sparse_tables(plain.model))
        layout = Layout({n: p.shape for n, p in trained.items()}, shards, blocks(micro_shards, self.workers))
        shipment = blueprint.ship()
        actors = Actors(Server, Worker, cut=partial(packed_part, layout), join=partial(whole, layout))
        total = injected.get("total_steps")
        return ServedProgram(
            plain, self, layout, lambda: Driver(self, shipment, layout, actors, total), partial(_complete, plain, layout)
        )

    def _check(self, spec: Spec, micro_shards: int) -> None:
        if launched():
            raise SpecError("mesh: servers and workers are started by one process; start it without torchrun or --ranks")
        if spec.strict:
            raise SpecError("strict: servers sum in another order than ranks do; use a mesh of ranks, or leave strict out")
        if micro_shards < self.workers:
            raise SpecError(
                f"micro_shards: {micro_shards} are fewer than {self.workers} workers, some of which would have none"
            )
        if spec.device.startswith("cuda") and not self.gpus:
            raise SpecError(f"device: workers have no GPU to compute on with {spec.device!r}: say mesh.gpus=1, or device=cpu")


def _complete(plain: Program, layout: Layout, tree: dict[str, Any]) -> dict[str, Any]:
    """The state of one process's program: that of the servers, and the buffers that it has itself."""
    named = {id(p): n for n, p in plain.model.named_parameters() if n in layout.shapes}
    own = plain.model.state_dict(keep_vars=True)  # a tied weight stands there under each of its names
    return {**tree, "model": {n: tree["model"][named[id(v)]] if id(v) in named else v for n, v in own.items()}}


class _Place(OneProcess):
    """Stands where the mesh stands in the order of middlewares, for whoever looks at that order."""

    __mapsto__ = DECLARED

    def join(self, *_: Any) -> None: ...

    def setup(self, builder: Builder) -> None: ...

    def begin(self, state: State) -> None: ...

    def grad(self, inner: Any) -> Any:
        return inner
