"""The mesh of ranks: data parallel, fully sharded, tensor and pipeline parallel, alone or together.

In form it is a middleware: it places the model before there is an optimizer, and wraps `grad`, so that gradients are
summed over micro-shards and ranks and divided once. What each axis does stands in a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ...core.compose import Declared, Placed
from ...core.errors import ComposeError, SpecError
from ...core.plan import MESH
from ...core.registry import decorator
from ...data.stream import StandIn
from ..mappings import Batch, Grad, Metrics
from ..middleware.gradients import dense, scale
from ..state import Builder, State
from . import group, norms
from .axes import AXES, dealt, ranks_of, sizes
from .busy import Busy
from .one import OneProcess
from .replicate import Replicated
from .shard import Sharded
from .strict import Strict, refuse
from .sums import reduced
from .tensor import Divided

OUTSIDE = ("nonfinite", "mixed_precision", "sam")
"""Middlewares that look at the gradient of the whole batch: they stand outside of the mesh."""


@decorator("mesh")("ranks")
class Ranks(OneProcess):
    """program of one process -> the same program on replicate x shard x tensor x pipeline ranks (torch.distributed).

    replicate: ranks with whole copies (DDP; Li et al. 2020); shard: ranks over which parameters, gradients and optimizer
    state are cut (FSDP2, `fully_shard`; Rajbhandari et al. 2020); both: hybrid; tensor: ranks that share each
    product (DTensor; Shoeybi et al. 2019); pipeline: ranks with consecutive stages. One axis may be -1: all that are left.
    unused_parameters: parameters may take no part in a step, on all or some ranks (costs a search of the graph);
    blocks: patterns of modules that are sharded each for itself (default: items of module lists and sequences);
    precision: `bf16` or `fp16` for the sharded parameters in forward and backward; offload: keep shards on the CPU;
    tensor_plan: how `tensor` cuts modules, by patterns of their names: `colwise`, `colwise_gather`, `rowwise` or `replicate`
    (default: what layers declare, else what their names say); bucket_mb: size of DDP's buckets;
    timeout: seconds that a rank waits for the others. Raises SpecError.
    """

    __mapsto__ = Declared(wraps=("grad",), provides=("mesh",), before=("accumulate",), after=OUTSIDE)

    def __init__(
        self,
        replicate: int = 1,
        shard: int = 1,
        tensor: int = 1,
        pipeline: int = 1,
        *,
        unused_parameters: bool = False,
        blocks: Sequence[str] | None = None,
        precision: Literal["bf16", "fp16"] | None = None,
        offload: bool = False,
        tensor_plan: Mapping[str, str] | None = None,
        bucket_mb: float = 25.0,
        timeout: float = group.TIMEOUT,
    ) -> None:
        super().__init__()
        self.stated = {"pipeline": pipeline, "replicate": replicate, "shard": shard, "tensor": tensor}
        if not timeout > 0:
            raise SpecError(f"mesh.timeout: {timeout} seconds is not above 0")
        self.unused_parameters, self.blocks = unused_parameters, blocks
        self.precision, self.offload = precision, offload
        self.tensor_plan = tensor_plan
        self.bucket_mb, self.timeout = bucket_mb, timeout
        self.asks = False
        self._asked: list[Tensor] = []
        self.busy = Busy()

    @property
    def ranks(self) -> int | None:
        """How many ranks the axes ask for; None where one of them takes what is left."""
        return ranks_of(self.stated)

    # -- joining -----------------------------------------------------------------------------------------------------
    def join(self, device: torch.device, micro_shards: int | None, strict: bool = False) -> None:
        """Take this process's place among the ranks. Raises SpecError where the axes do not fit them."""
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.sizes = sizes(self.stated, self.world)
        self.lockstep = self.world > 1
        self.data_ranks = self.sizes["replicate"] * self.sizes["shard"]
        self.device_mesh = self._device_mesh(device) if self.world > 1 else None
        self.data = self._data()
        self.micro_shards = micro_shards or self.data_ranks
        self.own = dealt(self.micro_shards, self.data_rank, self.data_ranks)
        self.strict: Strict | None = None
        if strict:
            refuse(self.sizes, self, device)
            self.strict = Strict(device, self.micro_shards, self.device_mesh, self.data)
            self.own = self.strict.own

    def _device_mesh(self, device: torch.device) -> DeviceMesh:
        made = init_device_mesh(device.type, tuple(self.sizes[a] for a in AXES), mesh_dim_names=AXES)
        for axis in AXES:
            if 1 < made[axis].size() < self.world:  # the group of all has the limit that it was joined with
                group.limit(made.get_group(axis), self.timeout)
        return made

    def _data(self) -> dist.ProcessGroup | None:
        """The ranks that have different records; None for one."""
        if self.data_ranks == 1:
            return None
        assert self.device_mesh is not None
        made = self.device_mesh["replicate", "shard"]._flatten("data").get_group()
        if self.data_ranks < self.world:
            group.limit(made, self.timeout)
        return made

    @property
    def meets(self) -> dist.ProcessGroup | None:
        """The ranks that tell each other their metrics and wishes: those with other records, or all that share a step."""
        return self.data if self.data_ranks == self.world else dist.group.WORLD

    @property
    def counts(self) -> bool:
        """Whether this rank's metrics count: ranks that share products have the same ones."""
        return self.device_mesh is None or self.device_mesh.get_local_rank("tensor") == 0

    @property
    def data_rank(self) -> int:
        return dist.get_rank(self.data) if self.data is not None else 0

    @property
    def takes(self) -> dict[str, Any]:
        """What a reader's stream is asked for: this rank's micro-shards."""
        return {"shard": self.own, "shards": self.micro_shards}

    def accept(self, plan: Sequence[Placed]) -> None:
        """Raises ComposeError where a middleware would change gradients within a pass: other ranks have them by then."""
        names = [placed.name for placed in plan]
        for placed in plan[names.index(MESH) + 1 :] if self.world > 1 else ():
            if "grad" in placed.declared.wraps and "accumulation" not in placed.declared.provides:
                raise ComposeError(
                    f"middleware {placed.name!r} wraps grad inside of the mesh ({'; '.join(placed.why)}), whose ranks exchange "
                    "gradients while backward still runs: let it stand outside, where it sees the gradient of the whole batch"
                )

    # -- placing -----------------------------------------------------------------------------------------------------
    def setup(self, builder: Builder) -> None:
        """Place the model: the same parameters on every rank, whole or in parts."""
        refuse_batch_statistics(builder.model, self.micro_shards)
        self.placed: Sharded | Replicated | None = None
        self.divided: Divided | None = None
        self.notes: list[str] = []
        if self.strict is not None:
            self.placed = self.strict.place(builder.model, self)
            return
        if self.device_mesh is None:
            return
        if self.sizes["tensor"] > 1:
            self.divided = Divided(builder.model, self.device_mesh["tensor"], self.tensor_plan)
            self.notes += self.divided.notes
        if self.sizes["shard"] > 1 or (self.sizes["replicate"] > 1 and self.divided is not None):
            names = ("replicate", "shard") if self.sizes["replicate"] > 1 else ("shard",)
            self.placed = Sharded(builder.model, self.device_mesh[names], self)
        elif self.sizes["replicate"] > 1:
            assert self.data is not None
            self.placed = Replicated(builder.model, self.data, self)

    def begin(self, state: State) -> None:
        state.mesh = self
        self.state = state
        if self.strict is not None:
            self.strict.begin(state, self.bucket_mb)
        if self.device_mesh is not None:
            self.busy.watch(state.parameters[-1])

    def synchronise(self, wanted: bool) -> None:
        """Whether the next backward pass reduces gradients over ranks."""
        if self.placed is not None:
            self.placed.synchronise(wanted)

    # -- the mappings ------------------------------------------------------------------------------------------------
    def grad(self, inner: Grad) -> Grad:
        """The gradient of the whole global batch, on every rank (of it what the rank holds)."""

        def over_ranks(state: State, batches: Any) -> Metrics:
            self.busy.begin()
            if self.strict is not None:
                metrics, asked = self.strict.grad(inner, state, batches, self.asks)
                self.busy.end()
            else:
                window = self._passes(inner, state, batches)
                self.busy.end()
                metrics, asked = reduced(window, self.meets, self.device(state), asks=self.asks, counts=self.counts)
                if self.divided is not None:
                    self.divided.settle()
            self._asked = [*self._asked[-1:], asked]
            if not state.summing:
                self._divide(state, metrics["loss"][1])
            return metrics

        return over_ranks

    def _passes(self, inner: Grad, state: State, batches: Sequence[Batch]) -> list[Metrics]:
        window: list[Metrics] = []
        try:
            with state.sums():
                for place, (number, batch) in enumerate(zip(self.own, batches, strict=True)):
                    state.shard, self.absent = max(number, 0), isinstance(batch, StandIn)
                    with self.pending(place < len(batches) - 1):
                        window.append(inner(state, batch))
        finally:
            state.shard, self.absent = 0, False
        return window

    def _divide(self, state: State, weight: Tensor) -> None:
        if gradients := dense(state.parameters):
            factor = 1.0 if self.placed is None else self.placed.factor
            scale(gradients, torch.where(weight == 0, 0.0, factor / weight))

    # -- what middlewares ask ----------------------------------------------------------------------------------------
    def agree(self, flag: Tensor) -> Tensor:
        """The largest of a flag over all ranks, where they hold different gradients."""
        if self.world == self.sizes["replicate"]:
            return flag
        flag = flag.clone()
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return flag

    def norm(self, tensors: Iterable[Tensor], p: float = 2.0) -> Tensor:
        """The p-norm over all elements of tensors, counted once however they lie on ranks."""
        return self.strict.norm(tensors, p) if self.strict is not None else norms.norm(list(tensors), p)

    def whole(self, tensor: Tensor) -> Tensor:
        """The full value of a tensor of which ranks may hold parts; all ranks must ask."""
        full = getattr(tensor, "full_tensor", None)
        return full() if full is not None else tensor

    def sums(self, parts: Sequence[Metrics]) -> Metrics:
        """(sum, weight) pairs, one mapping for each of this rank's micro-shards, summed over these and the ranks."""
        if self.strict is not None:
            return self.strict.reduced(parts, self.device(self.state))[0]
        return reduced(parts, self.data, self.device(self.state))[0]

    @staticmethod
    def device(state: State) -> torch.device:
        return state.device

    # -- the wish to stop --------------------------------------------------------------------------------------------
    @property
    def asked(self) -> bool:
        """Whether some rank wished to stop, the same on all of them. On a GPU what the step before last told: no waiting."""
        if not self._asked:
            return False
        told = self._asked[0 if self._asked[-1].is_cuda else -1]
        return bool(told > 0)


def refuse_batch_statistics(model: nn.Module, micro_shards: int) -> None:
    """Raises SpecError naming the layers whose output depends on the other records of a micro-shard."""
    if micro_shards < 2:
        return
    kinds = (nn.modules.batchnorm._BatchNorm,)
    found = [n for n, m in model.named_modules() if isinstance(m, kinds) and not isinstance(m, nn.SyncBatchNorm)]
    if found:
        named = ", ".join(repr(n) for n in found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
        raise SpecError(
            f"mesh: {named} take statistics over a batch, which {micro_shards} micro-shards cut: the result would depend on "
            "their number. Use GroupNorm, LayerNorm or InstanceNorm, or on GPUs torch.nn.SyncBatchNorm.convert_sync_batchnorm"
        )
