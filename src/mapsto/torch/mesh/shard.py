"""The axis `shard`: parameters, gradients and optimizer state are cut over ranks (FSDP2); with `replicate`, hybrid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

from ...core.errors import SpecError
from ..middleware.matching import matching_modules
from .sent import sent

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Gathering(DefaultAllGather):
    """FSDP's own, counted."""

    def __call__(self, output_tensor: Tensor, *more: Any, **options: Any) -> Any:
        sent.count(output_tensor)
        return super().__call__(output_tensor, *more, **options)


class Scattering(DefaultReduceScatter):
    """FSDP's own, counted."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, *more: Any, **options: Any) -> Any:
        sent.count(input_tensor)
        return super().__call__(output_tensor, input_tensor, *more, **options)


class Sharded:
    """A model under `fully_shard` in place, block by block; gradients are summed over ranks, so `factor` is 1."""

    factor = 1.0

    def __init__(self, model: nn.Module, mesh: DeviceMesh, options: Any) -> None:
        self.model: Any = model
        given: dict[str, Any] = {"mesh": mesh}
        if options.precision is not None:
            dtype = DTYPES[options.precision]
            given["mp_policy"] = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        if options.offload:
            given["offload_policy"] = CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
        for block in (*blocks(model, options.blocks), model):
            fully_shard(block, **given)
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

    def synchronise(self, wanted: bool) -> None:
        """Whether the next backward pass reduces gradients."""
        self.model.set_requires_gradient_sync(wanted)


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
