"""The mesh of ranks: data parallel, fully sharded, tensor and pipeline parallel, alone or together.

In form it is a middleware: it places the model before there is an optimizer, and wraps `grad`, so that gradients are
summed over micro-shards and ranks and divided once. What each axis does stands in a file of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ...core.axes import AXES, Axis, dealt, one_open, ranks_of, sizes
from ...core.compose import Declared
from ...core.doors import typed
from ...core.errors import ComposeError, SpecError
from ...core.plan import MESH, Placed
from ...core.ranges import Count, Positive
from ...core.registry import decorator
from ...data.stream import PaddingBatch
from ..mappings import Batch, Grad, Loss, Metrics, Step, needs_closure
from ..middleware.gradients import dense, scale
from ..state import Builder, State
from . import group, norms, together
from .busy import Busy
from .one import OneProcess
from .pipeline.schedule import Pipeline
from .pipeline.staging import Staging
from .replicate import Replicated
from .sent import sent
from .shard import Sharded, refuse_rule, sparse_parameters
from .strict.mode import Strict, refuse
from .summed import Summed
from .sums import reduced
from .tensor.divided import Divided

T = TypeVar("T")


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
    (default: what layers declare, else what their names say); microbatches: of a data rank in a step, for `pipeline` (default:
    one a stage; micro_shards says the same); schedule: `1f1b`, `gpipe`, or `interleaved` with several `stages` a rank (default
    2); split: modules at which stages after the first begin (default: stages that cost about the same);
    bucket_mb: size of DDP's buckets; timeout: seconds that a rank waits for the others. Raises SpecError.
    """

    __mapsto__ = Declared(wraps=("grad", "step"), provides=(MESH,))

    @typed
    def __init__(
        self,
        replicate: Axis = 1,
        shard: Axis = 1,
        tensor: Axis = 1,
        pipeline: Axis = 1,
        *,
        unused_parameters: bool = False,
        blocks: Sequence[str] | None = None,
        precision: Literal["bf16", "fp16"] | None = None,
        offload: bool = False,
        tensor_plan: Mapping[str, str] | None = None,
        microbatches: Count | None = None,
        schedule: Literal["1f1b", "gpipe", "interleaved"] = "1f1b",
        stages: Count | None = None,
        split: Sequence[str] | None = None,
        bucket_mb: Positive = 25.0,
        timeout: Positive = group.TIMEOUT,
    ) -> None:
        super().__init__()
        self.stated = {"pipeline": pipeline, "replicate": replicate, "shard": shard, "tensor": tensor}
        one_open(self.stated)
        self.unused_parameters, self.blocks = unused_parameters, blocks
        self.precision, self.offload = precision, offload
        self.tensor_plan = tensor_plan
        self.staging = Staging(microbatches, schedule, stages, split)
        self.bucket_mb, self.timeout = bucket_mb, timeout
        self._attention: list[Tensor] = []
        self.busy = Busy()
        self.alone = False  # whatever was started
        self.local_updates = False
        self.turn = False  # of a step that is made of several
        self._unshared: bool | Tensor = False

    @property
    def ranks(self) -> int | None:
        """How many ranks the axes ask for; None where one of them takes what is left."""
        return ranks_of(self.stated)

    # -- joining -----------------------------------------------------------------------------------------------------
    def join(self, device: torch.device, micro_shards: int | None, strict: bool = False) -> None:
        """Take this process's place among the ranks. Raises SpecError where the axes do not fit them."""
        company = dist.is_initialized() and not self.alone
        self.world = dist.get_world_size() if company else 1
        self.rank = dist.get_rank() if company else 0
        self.sizes = sizes(self.stated, self.world)
        self.lockstep = self.world > 1
        self.data_ranks = self.sizes["replicate"] * self.sizes["shard"]
        self.device_mesh = self._device_mesh(device) if self.world > 1 else None
        self.data = self._data()
        self.micro_shards = self.staging.micro_shards(micro_shards, self.sizes)
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

    def _axis(self, name: str) -> dist.ProcessGroup | None:
        """The ranks along one axis; None for one."""
        return self.device_mesh[name].get_group() if self.device_mesh is not None and self.sizes[name] > 1 else None

    @property
    def meets(self) -> dist.ProcessGroup | None:
        """The ranks that exchange their metrics and requests: those with other records, or all that share a step."""
        if self.local_updates:
            return self._axis("shard")
        return self.data if self.data_ranks == self.world else dist.group.WORLD

    @property
    def counts(self) -> bool:
        """Whether this rank's metrics count: ranks that share products have the same ones, only the last stage has any."""
        if self.pipeline is not None and not self.pipeline.last:
            return False
        return self.device_mesh is None or self.device_mesh.get_local_rank("tensor") == 0

    @property
    def data_rank(self) -> int:
        return dist.get_rank(self.data) if self.data is not None else 0

    @property
    def reader_args(self) -> dict[str, Any]:
        """Arguments for a reader's `stream`: this rank's micro-shards."""
        return {"shard": self.own, "shards": self.micro_shards}

    def accept(self, plan: Sequence[Placed]) -> None:
        """Raises ComposeError where a middleware would change gradients within a pass: other ranks have them by then."""
        names = [placed.name for placed in plan]
        together.refuse(self.sizes, names)
        for placed in plan[names.index(MESH) + 1 :] if self.world > 1 else ():
            if "grad" in placed.declared.wraps and "accumulation" not in placed.declared.provides:
                raise ComposeError(
                    f"middleware {placed.name!r} wraps grad inside of the mesh ({'; '.join(placed.why)}), whose ranks exchange "
                    "gradients while backward still runs: let it stand outside, where it sees the gradient of the whole batch"
                )

    @staticmethod
    def suits(options: Mapping[str, Any], plan: Sequence[Placed]) -> None:
        """Raises ComposeError where the axes that options name do not go with each other or with a middleware."""
        known = {axis: size for axis in AXES if isinstance(size := options.get(axis, 1), int)}
        together.refuse(known, [placed.name for placed in plan])

    # -- placing -----------------------------------------------------------------------------------------------------
    def setup(self, builder: Builder) -> None:
        """Place the model: the same parameters on every rank, whole or in parts."""
        refuse_batch_statistics(builder.model, self.micro_shards)
        refuse_exchange(builder, self.sizes)
        self.local_updates = builder.local_updates is not None and self.sizes["replicate"] > 1
        self.replicas = self._axis("replicate") if self.local_updates else None
        self.placed: Sharded | Replicated | Summed | None = None
        self.scalars: Summed | None = None
        self.divided: Divided | None = None
        self.pipeline: Pipeline | None = None
        self.notes: list[str] = []
        if self.strict is not None:
            self.placed = self.strict.place(builder.model, self)
            return
        if self.device_mesh is None:
            return
        if self.sizes["tensor"] > 1:
            self.divided = Divided(builder.model, self.device_mesh["tensor"], self.tensor_plan)
            self.notes += self.divided.notes
        if self.sizes["pipeline"] > 1:
            self.pipeline = Pipeline(builder.model, self.device_mesh["pipeline"], builder.device, self.staging)
            self.notes += self.pipeline.notes
            builder.local_stages = self.pipeline.local_stages
            self.pipeline.local_stages.order = [name for _, names in builder.grouped() for name in names]
            if self.data is not None:
                self.placed = self._summed([*builder.model.named_parameters()], self.data)
        elif self.sizes["shard"] > 1 or (self.sizes["replicate"] > 1 and self.divided is not None):
            names = ("replicate", "shard") if self.sizes["replicate"] > 1 and not self.local_updates else ("shard",)
            self.placed = Sharded(builder.model, self.device_mesh[names], self)
            self.notes += self.placed.notes
            if self.placed.scalars:
                self.scalars = self._summed(self.placed.scalars, self._axis("shard") if self.local_updates else self.data)
        elif self.sizes["replicate"] > 1 and not self.local_updates and not builder.turns:
            assert self.data is not None
            if sparse := sparse_parameters(builder.model):
                if builder.buckets is not None:
                    raise ComposeError(
                        f"{builder.buckets[0]} exchanges buckets of dense gradients, and {sparse[0]}'s are sparse"
                    )
                self.placed = self._summed([*builder.model.named_parameters()], self.data, sparse)
                return
            self.placed = Replicated(builder.model, self.data, self, None if builder.buckets is None else builder.buckets[1])

    def _summed(
        self, named: Sequence[tuple[str, nn.Parameter]], group: dist.ProcessGroup | None, sparse: Iterable[str] = ()
    ) -> Summed | None:
        if group is None:
            return None
        return Summed(named, group, unused=self.unused_parameters, bucket_mb=self.bucket_mb, sparse=sparse)

    def for_turn(self) -> Ranks:
        """This mesh for one turn of a step, whose gradients are exchanged when its passes are done."""
        made = copy.copy(self)
        made.turn, made.wants_attention = True, False
        return made

    def _begin_turn(self, state: State) -> None:
        if self.strict is not None:
            self.strict = copy.copy(self.strict)
        elif self.placed is None:
            self.placed = self._summed([*zip(state.names, state.parameters, strict=True)], self.data)
        elif self.scalars is not None:
            own = set(map(id, state.parameters))
            self.scalars = self._summed([(n, p) for n, p in self.scalars.named if id(p) in own], self.data)
        if isinstance(self.placed, Sharded):  # what is differentiated are gathered parameters, of which nobody else knows
            state.inputs = None

    @property
    def injected(self) -> Mapping[str, Any]:
        """Arguments for optimizers that leave them open."""
        return self.strict.injected if self.strict is not None else {}

    def try_rule(self, make: Callable[[list[nn.Parameter]], Any]) -> None:
        """Raises SpecError where an optimizer cannot do on this mesh what was asked for."""
        if self.strict is not None:
            self.strict.try_rule(make)
        elif self.device_mesh is not None and self.sizes["shard"] > 1:
            refuse_rule(make, self.device_mesh["shard"])

    def begin(self, state: State) -> None:
        state.mesh = self
        self.state = state
        if self.turn:
            self._begin_turn(state)
        if self.strict is not None:
            self.strict.begin(state, self.bucket_mb)
        if self.sizes["shard"] * self.sizes["tensor"] * self.sizes["pipeline"] > 1 and needs_closure(state.optimizer):
            raise ComposeError(
                f"{type(state.optimizer).__name__} takes inner products over all parameters, of which ranks hold parts: choose "
                "an optimizer that updates each parameter by itself, or mesh.replicate"
            )
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
                metrics, attention = self.strict.grad(inner, state, batches, self.wants_attention)
                self.busy.end()
            else:
                window = self._passes(inner, state, batches)
                self.busy.end()
                metrics, attention = reduced(
                    window, self.meets, state.device, attention=self.wants_attention, counts=self.counts
                )
                if self.divided is not None:
                    self.divided.align_gradients()
                if self.pipeline is not None:
                    self.pipeline.local_stages.sum_tied()
                for summed in (self.placed, self.scalars):
                    if isinstance(summed, Summed):
                        summed.reduce()
            if self.local_updates:  # shared with all when the replicas come together
                self._unshared, self._attention = attention, []
            else:
                self._attention = [*self._attention[-1:], attention]
            if not state.summing:
                self._divide(state, metrics["loss"][1])
            return metrics

        return over_ranks

    def _explained(self) -> AbstractContextManager[None]:
        return self.placed.explained() if isinstance(self.placed, Sharded) else nullcontext()

    def hooked(self, loss: Loss) -> Loss:
        """The whole loss of a program, with what DDP or FSDP do around a call of the model done around all of it."""
        return loss if self.placed is None or isinstance(self.placed, Summed) else self.placed.hooked(loss)

    def calling(self, compute: Callable[[], T]) -> T:
        """What `compute` gives, which may call the model or parts of it outside of a program's loss; all ranks call it."""
        return self.placed.calling(compute) if isinstance(self.placed, Sharded) else compute()

    def step(self, inner: Step) -> Step:
        """The same step; metric `bytes/step`: the payload of the collectives of this rank (see `sent`)."""
        if self.turn or self.world == 1 or self.strict is not None or self.sizes["tensor"] * self.sizes["pipeline"] > 1:
            return inner  # there are collectives of other kinds, which are not counted

        def counted(state: State, batches: Any) -> Metrics:
            before = sent.bytes
            metrics = inner(state, batches)
            return {**metrics, "bytes/step": float(sent.bytes - before)}

        return counted

    def _passes(self, inner: Grad, state: State, batches: Sequence[Batch]) -> list[Metrics]:
        if self.pipeline is not None:
            numbers = zip(self.own, batches, strict=True)
            return self.pipeline.passes(inner, state, [(max(n, 0), isinstance(b, PaddingBatch), b) for n, b in numbers])
        window: list[Metrics] = []
        try:
            with state.sums():
                for place, (number, batch) in enumerate(zip(self.own, batches, strict=True)):
                    state.shard, self.absent = max(number, 0), isinstance(batch, PaddingBatch)
                    with self.pending(place < len(batches) - 1), self._explained():
                        window.append(inner(state, batch))
        finally:
            state.shard, self.absent = 0, False
        if isinstance(self.placed, Replicated):
            self.placed.count()
        return window

    def _divide(self, state: State, weight: Tensor) -> None:
        if gradients := dense(state.parameters):
            factor = 1.0 if self.placed is None else self.placed.factor
            scale(gradients, torch.where(weight == 0, 0.0, factor / weight))

    # -- what middlewares ask ----------------------------------------------------------------------------------------
    def agree(self, flag: Tensor) -> Tensor:
        """The largest of a flag over all ranks, where they hold different gradients."""
        if self.world == self.sizes["replicate"] and not self.local_updates:
            return flag
        return sent.all_reduce(flag.clone(), dist.ReduceOp.MAX)

    def norm(self, tensors: Iterable[Tensor], p: float = 2.0) -> Tensor:
        """The p-norm over all elements of tensors, counted once however they lie on ranks."""
        if self.pipeline is not None:
            return self.pipeline.norm(list(tensors), p, self.state.parameters)
        return self.strict.norm(tensors, p) if self.strict is not None else norms.norm(list(tensors), p)

    def norms(self, tensors: Iterable[Tensor], p: float = 2.0) -> list[Tensor]:
        """The p-norm of each tensor over all of its elements; a stage of a pipeline asks for its own."""
        held = list(tensors)
        return norms.each(held, p) if self.strict is None else [self.strict.norm([tensor], p) for tensor in held]

    def gathered(self, values: dict[str, Any]) -> dict[str, Any]:
        """Values by parameter name, of which ranks may hold different ones, on every rank."""
        return values if self.pipeline is None else self.pipeline.gathered(values)

    def local_state(self, tree: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of the state of a whole program what this rank has parameters for."""
        return tree if self.pipeline is None else self.pipeline.local_stages.local_state(tree)

    def summary(self) -> dict[str, Any]:
        """What a program says of the whole model where its rank holds a part of it, and how it is cut."""
        found = {} if self.pipeline is None else self.pipeline.local_stages.summary()
        return {**found, "mesh": self.notes} if self.notes else found

    def sums(self, parts: Sequence[Metrics]) -> Metrics:
        """(sum, weight) pairs, one mapping for each of this rank's micro-shards, summed over these and the ranks."""
        if self.strict is not None:
            return self.strict.reduced(parts, self.state.device)[0]
        return reduced(parts, self.data, self.state.device)[0]

    def together(self, window: Sequence[Metrics]) -> Metrics:
        """Metrics of replicas that step by themselves as those of all of them; a request for attention goes along."""
        metrics, attention = reduced(window, self.replicas, self.state.device, attention=self._unshared)
        self._attention = [attention]
        return metrics

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value (it is pickled) by rank, on every rank; all ranks must ask."""
        return group.Group().gather(value) if self.world > 1 else [value]

    # -- a request to stop -------------------------------------------------------------------------------------------
    @property
    def attention_requested(self) -> bool:
        """Whether some rank requested attention, such as to stop: the same on all ranks.

        On a GPU it is what the step before last exchanged, since reading the last one's would wait for the device.
        """
        if not self._attention:
            return False
        requests = self._attention[0 if self._attention[-1].is_cuda else -1]
        return bool(requests > 0)


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


def refuse_exchange(builder: Builder, sizes: Mapping[str, int]) -> None:
    """Raises SpecError where a middleware would exchange what replicas have, and the mesh cannot let it."""
    name = builder.local_updates if builder.buckets is None else builder.buckets[0]
    if name is None:
        return
    if builder.strict:
        raise SpecError(f"strict: its sums have one order, and middleware {name!r} sums in another way: leave one of them out")
    other = [axis for axis in AXES if sizes[axis] > 1 and axis != "replicate"]
    if sizes["replicate"] == 1 and other:
        raise SpecError(
            f"middleware {name!r} sends less between replicas, and there is one: mesh.{other[0]} "
            "exchanges at every step what the products need. Give the mesh an axis `replicate`, or leave the middleware out"
        )
    wrong = [axis for axis in other if axis != "shard" or builder.buckets is not None]
    if wrong:
        instead = "; mesh: {precision: bf16} makes shards travel in half" if wrong == ["shard"] else ""
        raise SpecError(
            f"middleware {name!r} works where replicas hold whole {'or sharded ' if builder.buckets is None else ''}copies, "
            f"and mesh.{wrong[0]} is {sizes[wrong[0]]}{instead}"
        )
