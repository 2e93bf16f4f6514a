"""The axis `shard`: parameters, gradients and optimizer state are cut over ranks (FSDP2); with `replicate`, hybrid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter
from torch.distributed.tensor import Shard, distribute_tensor

from ...core.errors import SpecError
from ..losses import Weight
from ..mappings import Batch, Loss, needs_closure
from ..middleware.matching import matching_modules
from ..state import State
from .sent import sent

T = TypeVar("T")
MISUSES = {
    "mixed torch.Tensor and DTensor": "the task uses a part of a block whose parameters are gathered when the block itself is "
    "called: call the block, name the part in mesh.blocks, or take mesh.replicate",
    "out of bounds for storage of size 0": "the task differentiates within its pass (such as a penalty on a gradient), after "
    "which parameters are given back that the backward pass needs: take mesh.replicate",
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Gathering(DefaultAllGather):
    """FSDP's own all-gather, whose bytes are counted."""

    def __call__(self, output_tensor: Tensor, *more: Any, **options: Any) -> Any:
        sent.count(output_tensor)
        return super().__call__(output_tensor, *more, **options)


class Scattering(DefaultReduceScatter):
    """FSDP's own reduce-scatter, whose bytes are counted."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, *more: Any, **options: Any) -> Any:
        sent.count(input_tensor)
        return super().__call__(output_tensor, input_tensor, *more, **options)


class Sharded:
    """A model under `fully_shard` in place, block by block; gradients are summed over ranks, so `factor` is 1.

    scalars: trained parameters without an axis, which nothing can cut: each rank has them whole; notes: which blocks are not
    gathered each for itself, and why. Raises SpecError for what `fully_shard` would only refuse, or not say, within a step.
    """

    factor = 1.0

    def __init__(self, model: nn.Module, mesh: DeviceMesh, options: Any) -> None:
        self.model: Any = model
        given: dict[str, Any] = {"mesh": mesh}
        if options.precision is not None:
            dtype = DTYPES[options.precision]
            given["mp_policy"] = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        if options.offload:
            given["offload_policy"] = CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
        refuse_sparse(model)
        found, self.notes = unshared(model, blocks(model, options.blocks))
        refuse_mixed(model, found)
        whole = {p for p in model.parameters() if p.ndim == 0}
        self.scalars = [(n, p) for n, p in model.named_parameters() if p.requires_grad and p.ndim == 0]
        for block in (*found, model):
            fully_shard(block, **given, ignored_params=whole)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)  # gloo has no other way to sum
                module.set_custom_all_gather(Gathering())
                module.set_custom_reduce_scatter(Scattering())
                if mesh.ndim == 2:
                    module.set_all_reduce_hook(sent.count)
                if options.unused_parameters:
                    _reduce_unused(module)

        vars(model)["_mapsto_pass"] = self._pass
        register_fsdp_forward_method(model, "_mapsto_pass")

    def calling(self, compute: Callable[[], T]) -> T:
        """What `compute` gives, with the model's own parameters gathered as a call of the model gathers them: a task may call
        parts of it. Raises SpecError where it uses a part of a block that was not called."""
        with self.explained():
            self.model._mapsto_pass(lambda: None)  # gathers: a call of the model within a call would give its parameters back
            found: T = self.model._mapsto_pass(_given(compute()))  # told of what is differentiated
        return found

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Within it errors of kernels that are given parts of parameters, or none, say what the task does that FSDP cannot."""
        try:
            yield
        except RuntimeError as error:
            found = next((why for text, why in MISUSES.items() if text in str(error)), None)
            if found is None:
                raise
            raise SpecError(f"mesh.shard: {found} ({str(error)[:60]} ...)") from error

    def _pass(self, compute: Callable[[], T]) -> T:
        return compute()

    def hooked(self, loss: Loss) -> Loss:
        """The loss with the model's own parameters gathered from its beginning (see `calling`)."""

        def gathered(state: State, batch: Batch) -> tuple[Tensor, Weight, Any]:
            return self.calling(lambda: loss(state, batch))

        return gathered

    def synchronise(self, wanted: bool) -> None:
        """Whether the next backward pass reduces gradients."""
        self.model.set_requires_gradient_sync(wanted)


def _given(value: T) -> Callable[[], T]:
    """FSDP casts tensors that a call is given, and not what a function gives it."""
    return lambda: value


def _reduce_unused(module: FSDPModule) -> None:
    """Parameters without a gradient on some rank count as zero there. Raises SpecError where torch cannot."""
    setter = getattr(module, "set_reduce_scatter_unused_params", None)
    if setter is None:
        raise SpecError(f"mesh.unused_parameters: with `shard` it needs torch 2.13 or later, and this is {torch.__version__}")
    setter(True)


def blocks(model: nn.Module, patterns: Any) -> list[nn.Module]:
    """The modules that are sharded each for itself: those that match, or the items of lists and sequences of modules.

    Inner ones come first, as `fully_shard` wants it.
    """
    if patterns is not None:
        return list(reversed(matching_modules(model, patterns, "mesh.blocks").values()))
    return [block for block in _items(model) if block is not model and any(p.requires_grad for p in block.parameters())]


def _items(module: nn.Module) -> Iterator[nn.Module]:
    """Items of the outermost lists and sequences."""
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.Sequential)):
            yield from child
        else:
            yield from _items(child)


# -- what can be sharded, and what each block holds ----------------------------------------------------------------------
def unshared(model: nn.Module, wanted: Sequence[nn.Module]) -> tuple[list[nn.Module], list[str]]:
    """Of blocks those that share no parameter with what lies outside of them, each once; and a note on the others.

    A block that is called several times is gathered each time. What blocks share (a submodule, a tied weight) is gathered with
    the innermost block that holds all of it, or with the whole model.
    """
    found = list({id(block): block for block in wanted}.values())
    names = {id(module): name for name, module in model.named_modules()}
    left: list[str] = []
    while shared := [owners for owners in _holders(model, found).values() if len(owners) > 1]:
        out = {owner for owners in shared for owner in owners} - {id(model)}
        left += [names[i] for i in names if i in out]
        found = [block for block in found if id(block) not in out]
    said = f"shard: {', '.join(left)} share parameters with other blocks, and are gathered with what holds all of these"
    return found, [said] if left else []


def _holders(model: nn.Module, found: Sequence[nn.Module]) -> dict[int, set[int]]:
    """Identity of each parameter -> those of the innermost blocks (or the model) in which it stands, under all its names."""
    known = {id(block) for block in found}
    holders: dict[int, set[int]] = {}

    def look(module: nn.Module, holder: int) -> None:
        holder = id(module) if id(module) in known else holder
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), set()).add(holder)
        for child in module.children():
            look(child, holder)

    look(model, id(model))
    return holders


def sparse_parameters(model: nn.Module) -> list[str]:
    """Names of the trained tables of embeddings whose gradients are sparse."""
    return [
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse and module.weight.requires_grad
    ]


def refuse_sparse(model: nn.Module) -> None:
    """Raises SpecError naming an embedding whose gradients are sparse."""
    for name in sparse_parameters(model):
        raise SpecError(
            f"mesh.shard: {name.removesuffix('.weight')!r} has sparse gradients (sparse=True), which are not scattered over "
            "ranks: say sparse=False, or mesh.replicate, or mesh.servers for a table that is too large"
        )


def refuse_mixed(model: nn.Module, found: Sequence[nn.Module]) -> None:
    """Raises SpecError naming a block whose trained parameters are of several dtypes: they are gathered as one."""
    holders, names = _holders(model, found), {id(module): name for name, module in model.named_modules()}
    first: dict[int, tuple[str, torch.dtype]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or parameter.ndim == 0:
            continue
        holder = next(iter(holders[id(parameter)]))
        before = first.setdefault(holder, (name, parameter.dtype))
        if before[1] != parameter.dtype:
            dtypes = [str(dtype).removeprefix("torch.") for dtype in (before[1], parameter.dtype)]
            raise SpecError(
                f"mesh.shard: {before[0]!r} is {dtypes[0]} and {name!r} {dtypes[1]}, and both are gathered with "
                f"{names[holder] or 'the whole model'!r}: give them one dtype, or name a module of one of them in mesh.blocks"
            )


def refuse_rule(make: Callable[[list[nn.Parameter]], Any], mesh: DeviceMesh) -> None:
    """Step a small parameter in parts. Raises SpecError naming an optimizer that cannot."""
    whole = torch.ones(2 * mesh.size(), 4, device=mesh.device_type)
    parameter = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None))
    parameter.grad = distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None)
    optimizer = make([parameter])
    if needs_closure(optimizer):
        return  # it is refused by what it looks at
    try:
        optimizer.step()
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise SpecError(
            f"optimizer: {type(optimizer).__name__} cannot update parameters of which ranks hold parts (mesh.shard): "
            f"take one that updates each element by itself, such as adamw, or mesh.replicate ({said[:160]})"
        ) from error
