"""A worker: reads its micro-shards of each global batch, pulls parameters, and computes sums of gradients."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import SpecError
from ...data.stream import PaddingBatch
from ...servers.blueprint import Shipment
from ...servers.exchange import ServerLost
from ...servers.partition import Rows
from ...servers.streams import Streams
from ..error_context import error_context
from ..mappings import Grad, Metrics
from ..mesh.one import OneProcess
from ..placement import place
from ..state import Builder, State
from . import trees, wire
from .blueprint import Blueprint
from .server import DECLARED
from .tables import Tables, split_by_rows


class WorkerMesh(OneProcess):
    """program of one process -> the part of it that computes on one micro-shard: what the mesh wraps."""

    __mapsto__ = DECLARED

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self.worker = worker

    def join(self, *_: Any) -> None:
        """Join nothing: a worker is in no process group."""

    def setup(self, builder: Builder) -> None:
        self.tables = Tables(builder.model, self.worker.pull_rows)

    def begin(self, state: State) -> None:
        state.mesh = self

    def grad(self, inner: Grad) -> Grad:
        self.inner = inner
        return inner


class Worker:
    """The actor: one thread, one block of micro-shards after another."""

    def build(self, shipment: Shipment, number: int, shards: Sequence[Rows], timeout: float) -> str:
        """Build the model and the reader of worker `number`; where this runs."""
        self.blueprint: Blueprint = shipment.open()
        self.number, self.shards, self.timeout = number, shards, timeout
        self.mesh = WorkerMesh(self)
        self.program = self.blueprint.program(self.mesh)
        self.state = self.program.state
        self.parameters = dict(zip(self.state.names, self.state.parameters, strict=True))
        plan = self.blueprint
        self.streams = Streams(plan.train_reader(), plan.micro_shards, plan.injected.get("total_steps"))
        self.checked = False
        return f"{os.uname().nodename} (process {os.getpid()})"

    def connect(self, servers: Sequence[Any]) -> None:
        """Handles of the servers; what was pulled from others is pulled anew."""
        self.servers, self.versions = servers, [-1] * len(servers)

    # -- one block of a step -----------------------------------------------------------------------------------------
    def close(self) -> None:
        """End the worker processes that the reader started."""
        self.streams.close()

    def work(self, step: int, block: range) -> tuple[Any, ...]:
        """What came of the micro-shards of a block, then for each server its rows of the summed gradients."""
        clock, state = time.perf_counter, self.state
        began = clock()
        batches = self.streams.read(step, block)
        read = clock()
        self.pulled, self.seconds = 0, 0.0
        self.oldest = min(self._pull())
        self.mesh.tables.begin()
        state.clear()
        state.step = step
        window = self._passes(block, batches)
        shards = self._shards()
        told = {
            "window": window,
            "names": sorted({name for shard in shards for name in shard}),
            "version": self.oldest,
            "pushed": sum(_bytes(value) for shard in shards for value in shard.values()),
            "pulled": self.pulled,
            "read": read - began,
            "pull": self.seconds,
            "compute": clock() - read - self.seconds,
        }
        return (told, *shards)

    def _passes(self, block: range, batches: Sequence[Any]) -> list[Metrics]:
        state, window = self.state, []
        watched = None if self.checked else {n: b.clone() for n, b in state.model.named_buffers()}
        with state.sums():
            for number, batch in zip(block, batches, strict=True):
                if not isinstance(batch, PaddingBatch):
                    state.shard, placed = number, place(batch, state.device)
                    with error_context(state, placed):
                        window.append({n: _plain(v) for n, v in self.mesh.inner(state, placed).items()})
        state.shard = 0
        if watched is not None and window:
            self._check(watched)
        return window

    def _check(self, before: Mapping[str, Tensor]) -> None:
        """Buffers that training changes would differ between workers and never reach a checkpoint."""
        changed = [n for n, b in self.state.model.named_buffers() if n in before and not torch.equal(b, before[n])]
        if changed:
            raise SpecError(
                f"mesh: a forward pass in training changed the buffer {changed[0]!r}, and servers hold parameters only: "
                "a layer with running statistics cannot be trained by a parameter server (use GroupNorm or LayerNorm)"
            )
        self.checked = True

    def _shards(self) -> list[dict[str, Any]]:
        """For each server its rows of every gradient there is."""
        found: list[dict[str, Any]] = [{} for _ in self.shards]
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                for k, rows in enumerate(self.shards):
                    if rows[name]:
                        found[k][name] = wire.pack(trees.rows_from(parameter.grad, rows[name]))
        for name, ids, values in self.mesh.tables.gradients():
            for k, part in split_by_rows(ids, {k: rows[name] for k, rows in enumerate(self.shards)}).items():
                local = ids[part] - self.shards[k][name].start
                found[k][name] = (wire.pack(local), wire.pack(values[part]))
        return found

    # -- pulling -----------------------------------------------------------------------------------------------------
    def _pull(self) -> Iterator[int]:
        """Make the dense parameters those of the servers; the version of each server's."""
        leave = list(self.mesh.tables.rows)
        calls = [server.pull.remote(have, leave) for server, have in zip(self.servers, self.versions, strict=True)]
        for k, (version, held) in enumerate(self._get(calls)):
            for name, packed in held.items():
                wire.write(packed, trees.rows_from(self.parameters[name].detach(), self.shards[k][name]))
                self.pulled += packed.nbytes
            self.versions[k] = version
            yield version

    def pull_rows(self, name: str, ids: Tensor) -> Tensor:
        """The rows of a sparse table with those distinct, sorted ids."""
        parts = split_by_rows(ids.cpu(), {k: rows[name] for k, rows in enumerate(self.shards)})
        calls = [self.servers[k].pull_rows.remote(name, wire.pack(ids[part])) for k, part in parts.items()]
        like = self.mesh.tables.likes[name]
        found = like.new_empty(len(ids), *like.shape[1:])
        for part, (version, packed) in zip(parts.values(), self._get(calls), strict=True):
            wire.write(packed, found[part])
            self.pulled += packed.nbytes + 8 * (part.stop - part.start)
            self.oldest = min(self.oldest, version)
        return found

    def _get(self, calls: Sequence[Any]) -> list[Any]:
        import ray

        began = time.perf_counter()
        try:
            found: list[Any] = ray.get(list(calls), timeout=self.timeout)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, ray.exceptions.ObjectLostError) as error:
            raise ServerLost(f"worker {self.number}: {type(error).__name__} while pulling parameters") from None
        finally:
            self.seconds += time.perf_counter() - began
        return found


def _plain(value: Any) -> Any:
    """A metric as numbers of the host."""
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return float(value)


def _bytes(value: Any) -> int:
    return sum(part.nbytes for part in value) if isinstance(value, tuple) else int(value.nbytes)
