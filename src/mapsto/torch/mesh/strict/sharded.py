"""The axis `shard` in strict mode: FSDP2 whose gradients are summed in the order of the tree.

Each pass of a micro-shard sends every rank its part of the gradient (all-to-all, as many bytes as a reduce-scatter); the parts
of one pass are neighbours in the tree and are added there. FSDP2 takes any object in the place of its reduce-scatter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from ....core.errors import SpecError
from ..group import all_gather
from ..shard import Sharded, T
from .exchange import Exchange, nothing, plus
from .tree import Tree

PARTIAL = "takes part in some micro-shards and not in others: state mesh: {unused_parameters: true}"
WHOLE = "takes part in some passes only: ranks that leave a sharded block out do not meet the others; replicate can do it"


class StrictSharded(Sharded):
    """A model under `fully_shard`, as in fast mode, but for how gradients are summed."""

    def __init__(self, model: nn.Module, mesh: DeviceMesh, options: Any, leaves: int, replicas: Exchange | None) -> None:
        super().__init__(model, mesh, options)
        if self.scalars:
            raise SpecError(
                f"strict: {self.scalars[0][0]!r} has no axis along which it could be sharded: give it the shape [1]"
            )
        self.passes = Pass(leaves)
        self.scatters: list[TreeScatter] = []
        for name, module in model.named_modules():
            if isinstance(module, FSDPModule):
                used = Used(module, mesh.size()) if options.unused_parameters else None  # type: ignore[arg-type]  # a module
                scatter: Any = TreeScatter(name or "the model", self.passes, replicas, used)
                self.scatters.append(scatter)
                module.set_custom_reduce_scatter(scatter)
        self.used = self.scatters[0].used  # of the model itself, the first of its modules

    def _pass(self, compute: Callable[[], T]) -> T:
        if self.used is not None:
            self.used.watch()
        return compute()

    def begin(self, own: tuple[int, ...], block: range) -> None:
        """Forget the sums of the step before: the passes of a new one begin."""
        self.passes.reset(own, block)
        for scatter in self.scatters:
            scatter.reset()

    def finish(self, parameters: Sequence[nn.Parameter]) -> list[bool]:
        """After them: the gradients become the sums. Which parameters this rank used. Raises SpecError naming a block that took
        part in some passes only."""
        for scatter in self.scatters:
            scatter.finish()
        told = [scatter.used.ever for scatter in self.scatters if scatter.used is not None]
        ever = {number for found in told for number in found}
        return [p.grad is not None and (not told or id(p) in ever) for p in parameters]


class Pass:
    """Which pass of a step is on: its place, and whether this rank's part of it counts."""

    def __init__(self, leaves: int) -> None:
        self.leaves = leaves
        self.reset((), range(0))

    def reset(self, own: tuple[int, ...], block: range) -> None:
        self.count, self.block = len(own), block
        self.place, self.absent = 0, False


class Used:
    """Which parameters of a sharded module had a gradient: FSDP2 sends zeros in the place of those that had none."""

    def __init__(self, module: nn.Module, shards: int) -> None:
        managed = [(m, name, p) for m in _managed(module) for name, p in m.named_parameters(recurse=False) if p.requires_grad]
        first = {id(p): i for i, (_, _, p) in reversed(list(enumerate(managed)))}  # one that is tied stands there several times
        self.places = [(m, name) for i, (m, name, p) in enumerate(managed) if first[id(p)] == i]
        self.sharded = [m.get_parameter(name) for m, name in self.places]
        self.columns = [-(-p.shape[0] // shards) * (p.numel() // max(p.shape[0], 1)) for p in self.sharded]
        self.now: set[int] = set()
        self.ever: set[int] = set()
        self._watched: dict[int, Tensor] = {}
        module.register_forward_pre_hook(self.watch)

    def watch(self, *_: Any) -> None:
        """Within a forward pass the module holds its whole parameters, the same ones at each."""
        for i, (module, name) in enumerate(self.places):
            whole = module.get_parameter(name)
            if id(whole) not in self._watched:
                self._watched[id(whole)] = whole
                whole.register_post_accumulate_grad_hook(lambda _, i=i: self.now.add(i))  # type: ignore[no-untyped-call]

    def blank(self, given: Tensor, shards: int) -> None:
        """Of a gradient to be sent, [shards * columns], what stands for no gradient becomes what changes nothing."""
        rows = torch.split(given.view(shards, -1), self.columns, dim=1)
        for i, part in enumerate(rows):
            if i not in self.now:
                part.fill_(nothing(given.dtype))
        self.ever |= {id(self.sharded[i]) for i in self.now}
        self.now = set()


def _managed(module: nn.Module) -> list[nn.Module]:
    """The modules whose parameters FSDP2 sends together with this one's, in its order: children first."""
    found: list[nn.Module] = []
    for child in module.children():
        if not isinstance(child, FSDPModule):
            found += [m for m in _managed(child) if m not in found]
    return [*found, module]


class TreeScatter:
    """What FSDP2 calls in the place of a reduce-scatter, for one of its modules."""

    def __init__(self, name: str, passes: Pass, replicas: Exchange | None, used: Used | None) -> None:
        self.name, self.passes, self.replicas, self.used = name, passes, replicas, used
        self.size: int | None = None
        self.reset()

    def reset(self) -> None:
        self.tree: Tree[Tensor] = Tree(self.passes.leaves, plus)
        self.output: Tensor | None = None
        self.calls = 0
        if self.used is not None:
            self.used.now, self.used.ever = set(), set()

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, **_: Any) -> None:  # noqa: ARG002
        """input: [ranks * columns], this rank's gradient; output: [columns], which FSDP2 adds to the sharded gradient.

        What it adds is nothing, until `finish` puts the sum in its place.
        """
        passes, shards = self.passes, dist.get_world_size(group)
        self._same_size(input_tensor, group)
        if passes.absent:
            input_tensor.fill_(nothing(input_tensor.dtype))
            if self.used is not None:
                self.used.now = set()
        elif self.used is not None:
            self.used.blank(input_tensor, shards)
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        first = passes.block.start + passes.place * shards
        for rank, part in enumerate(received.view(shards, -1)):
            if first + rank < passes.block.stop:
                self.tree.push((0, first + rank), part)
        # what waits for later passes keeps its part alone, not all that came with it
        self.tree.pending = [(node, part.clone() if _shares(part, received) else part) for node, part in self.tree.pending]
        if self.output is None:
            self.output = output_tensor
        output_tensor.fill_(nothing(output_tensor.dtype))
        self.calls += 1

    def finish(self) -> None:
        if self.output is None:
            return
        if self.calls != self.passes.count:
            raise SpecError(f"strict: {self.name!r} {WHOLE}")
        nodes = self.tree.take()
        if self.replicas is None:
            self.output.copy_(nodes[0])
        else:
            columns = self.output.numel()
            sent = self.output.new_zeros(len(nodes), self.replicas.padded(columns))
            for row, node in zip(sent, nodes, strict=True):
                row[:columns] = node
            like = self.output
            self.output.copy_(self.replicas(sent, lambda _, count: like.new_empty(count))[:columns])
        self.output = None

    def _same_size(self, given: Tensor, group: dist.ProcessGroup) -> None:
        """All passes on all ranks must have gradients of the same parameters; checked over ranks at the first."""
        if self.size is None:
            told = all_gather(given.new_full((1,), given.numel(), dtype=torch.int64), group)
            if len(set(told.flatten().tolist())) > 1:
                raise SpecError(f"strict: a parameter of {self.name!r} {PARTIAL}")
            self.size = given.numel()
        if given.numel() != self.size:
            raise SpecError(f"strict: a parameter of {self.name!r} {PARTIAL}")


def _shares(part: Tensor, whole: Tensor) -> bool:
    return part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
