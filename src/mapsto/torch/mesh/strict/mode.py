"""Strict mode: the weights are bitwise the same on any number of ranks, replicated or sharded.

Three things decide the bits: what each micro-shard computes, in which order sums are added, and what acts on parts of a tensor.
The first depends on nothing of the ranks (one thread, aligned memory, numbered random streams); sums follow the tree over
micro-shards (`tree`); and what would give a part of a tensor other bits than the whole is refused or done otherwise.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ....core.errors import SpecError
from ....data.stream import PaddingBatch
from ...mappings import Batch, Grad, Metrics
from ...state import State
from ..group import all_gather
from ..sums import packed
from .buffers import Buffers
from .elementwise import injected, refuse_rule
from .exchange import Buckets, Exchange, Parts, plus_parts
from .rows import norm
from .sharded import StrictSharded
from .tree import Tree, block, owned

log = logging.getLogger("mapsto")
ALIGNMENT = 64
"""Bytes. Matrix products of MKL on memory that is aligned otherwise have other bits."""


class Strict:
    """Gradients, metrics and norms of the ranks that have different records, in the order of their micro-shards."""

    def __init__(
        self, device: torch.device, micro_shards: int, mesh: DeviceMesh | None, data: dist.ProcessGroup | None
    ) -> None:
        self.device, self.micro_shards, self.data = device, micro_shards, data
        self.injected = injected(device)
        self.shard_mesh = mesh["shard"] if mesh is not None and mesh["shard"].size() > 1 else None
        replicas, shards = (mesh[axis].size() if mesh is not None else 1 for axis in ("replicate", "shard"))
        self.owned = owned(micro_shards, replicas, shards)
        rank = dist.get_rank(data) if data is not None else 0
        self.own = self.owned[rank]
        self.block = block(micro_shards, rank // shards, replicas)
        self.exchange = Exchange(mesh["replicate"].get_group(), micro_shards) if mesh is not None and replicas > 1 else None
        self.sharded: StrictSharded | None = None
        self._rows = self._by_number()
        repeatable(device)

    def _by_number(self) -> Tensor:
        """Where in the ranks' passes, one rank after another, each micro-shard is."""
        every = [number for own in self.owned for number in own]
        return torch.tensor([every.index(number) for number in range(self.micro_shards)])

    # -- placing -----------------------------------------------------------------------------------------------------
    def place(self, model: nn.Module, options: Any) -> StrictSharded | None:
        """Shard the model where there is an axis for it. Raises SpecError naming the modules whose gradients are sparse."""
        if sparse := [name for name, m in model.named_modules() if getattr(m, "sparse", False)]:
            raise SpecError(f"strict: {sparse[0]!r} has sparse gradients, which have no one order of summation: sparse=False")
        if self.shard_mesh is not None:
            self.sharded = StrictSharded(model, self.shard_mesh, options, self.micro_shards, self.exchange)
        return self.sharded

    def try_rule(self, make: Callable[[list[nn.Parameter]], Any]) -> None:
        """Raises SpecError where an optimizer is to step parts of parameters and gives them bits of their own."""
        if self.shard_mesh is not None:
            refuse_rule(make, self.device)

    def begin(self, state: State, bucket_mb: float) -> None:
        self.buffers = Buffers(state.model)
        whole = self.exchange is not None and self.sharded is None
        self.buckets = Buckets(state.parameters, self.exchange, bucket_mb) if self.exchange is not None and whole else None
        self._strides = [torch.empty_like(p, device="meta").stride() for p in state.parameters]

    # -- the gradient ------------------------------------------------------------------------------------------------
    def grad(self, inner: Grad, state: State, batches: Sequence[Batch], attention: bool) -> tuple[Metrics, Tensor]:
        """The sum over micro-shards and ranks, left in .grad; the metrics; and how many ranks ask to stop."""
        with state.sums(), state.isolated_gradients():
            window, nodes = self._passes(inner, state, batches)
            if self.sharded is not None:
                found = self.sharded.finish(state.parameters)
            else:
                found = [any(node[i] is not None for node in nodes) for i in range(len(state.parameters))]
            metrics, requests, present = self.reduced(window, state.device, attention=attention, flags=found)
            self._leave(state, nodes, present)
        return metrics, requests

    def _passes(self, inner: Grad, state: State, batches: Sequence[Batch]) -> tuple[list[Metrics | None], list[Parts]]:
        window: list[Metrics | None] = []
        tree: Tree[Parts] = Tree(self.micro_shards, plus_parts)
        mesh, sharded = state.mesh, self.sharded
        if sharded is not None:
            sharded.begin(self.own, self.block)
        try:
            for place, (number, batch) in enumerate(zip(self.own, batches, strict=True)):
                state.shard, mesh.absent = max(number, 0), isinstance(batch, PaddingBatch)
                if sharded is not None:
                    sharded.passes.place, sharded.passes.absent = place, mesh.absent
                metrics = inner(state, aligned(batch))
                window.append(_weightless(metrics) if mesh.absent else metrics)
                if sharded is None:
                    gradients = self._taken(state)
                    if number >= 0:
                        tree.push((0, number), [None] * len(gradients) if mesh.absent else gradients)
                self.buffers.compare(state.step)
        finally:
            state.shard, mesh.absent = self.micro_shards, False
            state.reseed()  # whoever draws from the framework's generator in the update draws the same on all ranks
            state.shard = 0
        return window, tree.take()

    def _taken(self, state: State) -> Parts:
        """The gradients of a pass, which leave the parameters; dense in the order of their parameter's memory."""
        found: Parts = []
        for parameter, strides in zip(state.parameters, self._strides, strict=True):
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None and gradient.layout is not torch.strided:
                raise SpecError(f"strict: a gradient of shape {list(gradient.shape)} is sparse, and dense ones are wanted")
            if gradient is not None and gradient.stride() != strides:
                gradient = torch.empty_like(parameter).copy_(gradient)
            found.append(gradient)
        return found

    def _leave(self, state: State, nodes: list[Parts], present: Sequence[bool]) -> None:
        """The sums, where some micro-shard had a gradient."""
        if self.sharded is not None:
            total: Sequence[Tensor | None] = [p.grad for p in state.parameters]
        else:
            total = nodes[0] if self.buckets is None else self.buckets(nodes)
        for parameter, gradient, there in zip(state.parameters, total, present, strict=True):
            parameter.grad = gradient if there else None

    # -- metrics -----------------------------------------------------------------------------------------------------
    def reduced(
        self, window: Sequence[Metrics | None], device: torch.device, *, attention: bool = False, flags: Sequence[bool] = ()
    ) -> tuple[Metrics, Tensor, list[bool]]:
        """(sum, weight) pairs summed and scalars averaged over all micro-shards by their number; how many ranks ask; for each
        flag whether some rank raised it."""
        names = sorted({name for metrics in window if metrics for name in metrics})
        pairs = [name for name in names if any(type(m.get(name)) is tuple for m in window if m)]
        values: list[Any] = []
        for place in range(len(self.own)):
            metrics = window[place] if place < len(window) else None
            for name in names:
                value = metrics.get(name) if metrics else None
                values += [0.0, 0.0] if value is None else value if name in pairs else [value, 1.0]
        vector = packed([*values, 1.0 if attention else 0.0, *map(float, flags)], device)
        every = vector[None] if self.data is None else all_gather(vector, self.data)
        numbered = every[:, : len(values)].reshape(-1, 2 * len(names))[self._rows.to(device)]
        sums = numbered.sum(0)
        found: Metrics = {}
        for i, name in enumerate(names):
            found[name] = (sums[2 * i], sums[2 * i + 1]) if name in pairs else sums[2 * i] / sums[2 * i + 1]
        told = every[:, len(values) :]
        return found, told[:, 0].sum(), [bool(f) for f in told[:, 1:].any(0).tolist()]

    def norm(self, tensors: Iterable[Tensor], p: float) -> Tensor:
        """The p-norm over all elements, added up in one order however they lie on ranks."""
        return norm(list(tensors), p)


def _weightless(metrics: Metrics) -> Metrics | None:
    """Those of a stand-in: the names, for ranks must tell the same ones, and nothing else."""
    return {name: (0.0, 0.0) if type(value) is tuple else None for name, value in metrics.items()}


def aligned(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch with every tensor of the host at an aligned address: those of NumPy, and slices, lie anywhere."""

    def moved(value: Any) -> Any:
        astray = isinstance(value, Tensor) and value.device.type == "cpu" and value.data_ptr() % ALIGNMENT
        return value.clone() if astray else value

    return type(batch)({name: moved(value) for name, value in batch.items()})  # type: ignore[call-arg]


def repeatable(device: torch.device) -> None:
    """Let this process compute the same bits whenever it computes the same: one thread, deterministic kernels on a GPU."""
    if torch.get_num_threads() != 1:
        log.warning("strict: one thread a rank (there were %d), since their number decides sums", torch.get_num_threads())
        torch.set_num_threads(1)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def refuse(sizes: Mapping[str, int], options: Any, device: torch.device) -> None:
    """Raises SpecError naming the option of the mesh that strict mode cannot hold, and the reason."""
    for axis, why in {"tensor": "cuts products into sums over ranks", "pipeline": "cuts batches anew"}.items():
        if sizes[axis] > 1:
            raise SpecError(f"strict: mesh.{axis} {why}, so the bits would depend on its size; replicate and shard are exact")
    if options.precision is not None:
        raise SpecError("strict: mesh.precision casts where parameters are sharded only; use the middleware mixed_precision")
    if options.offload and device.type != "cpu":
        raise SpecError("strict: mesh.offload moves the update to the CPU, whose last bits differ from the device's")
