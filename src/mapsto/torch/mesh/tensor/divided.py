"""The axis `tensor`: ranks that share each product (DTensor, `parallelize_module`).

Between a column-wise product and the row-wise one after it values are DTensors, whose shape is that of one process: code
that reads shapes or numbers of heads is right as it stands, and what cannot be right raises.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.experimental import implicit_replication
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.utils._pytree import tree_map_only

from ....core.errors import SpecError
from .attention import share_attention
from .plan import planned, tied


class Divided:
    """A model whose products are cut over the ranks of a mesh of one axis, in place: names stay what they were.

    notes: what was cut and how, for people. Raises SpecError where the plan does not fit the model.
    """

    def __init__(self, model: nn.Module, mesh: DeviceMesh, stated: Mapping[str, str] | None) -> None:
        plan = planned(model, stated, mesh.size())
        self.notes = [*plan.notes, *(f"whole: {said}" for said in plan.left)]
        share_attention()
        _whole_meets_parts()
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # two gathers in a row: known
        groups = tied(model)
        for name, style in plan.styles.items():
            parallelize_module(model.get_submodule(name), mesh, _style(model.get_submodule(name), style), src_data_rank=None)
        for first, *others in groups:
            _tie(model, first, others)
        for module in model.modules():
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0  # the fused path of evaluation reads the weights itself
            if type(module) is nn.Dropout:
                module.forward = functools.partial(_dropped, module)  # type: ignore[method-assign]
        named = list(model.named_parameters())
        self.whole = [(n, p) for n, p in named if not isinstance(p, DTensor)]
        self.parts = [p for _, p in named if isinstance(p, DTensor)]

    def align_gradients(self) -> None:
        """Let gradients lie on ranks as their parameters do (that of an embedding's rows does not by itself).

        Raises SpecError where a weight that every rank has whole met values that ranks have in parts.
        """
        for name, parameter in self.whole:
            if isinstance(parameter.grad, DTensor) and not isinstance(parameter, DTensor):
                raise SpecError(
                    f"mesh.tensor: {name} is whole on every rank and met values of which each has a part. Add its module to "
                    f"mesh.tensor_plan as `replicate` ({{{name.rpartition('.')[0]!r}: replicate}})"
                )
        for part in self.parts:
            gradient: Any = part.grad
            if gradient is not None and gradient.placements != (own := cast(DTensor, part.data).placements):
                part.grad = gradient.redistribute(placements=own)


@functools.cache
def _whole_meets_parts() -> ExitStack:
    """A table of angles or a mask that meets values in parts is taken as what it is: the same on all ranks (from now on)."""
    stack = ExitStack()
    stack.enter_context(implicit_replication())
    return stack


class Whole(ParallelStyle):
    """Parameters whole on every rank, as DTensors, for a module that is given values in parts (or whole ones, as it gives)."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for owner in module.modules():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                whole = distribute_tensor(parameter, device_mesh, [Replicate()], src_data_rank=None)
                owner.register_parameter(name, nn.Parameter(whole, requires_grad=parameter.requires_grad))
        module.forward = functools.partial(_with_whole, module.forward, device_mesh)
        return module


def _with_whole(forward: Any, mesh: DeviceMesh, *args: Any, **kwargs: Any) -> Any:
    """Call a module whose parameters are DTensors: with values in parts as they are, else whole values in and out."""
    if any(isinstance(value, DTensor) for value in (*args, *kwargs.values())):
        return forward(*args, **kwargs)
    whole = [Replicate()]
    args, kwargs = tree_map_only(Tensor, lambda t: DTensor.from_local(t, mesh, whole, run_check=False), (args, kwargs))
    return tree_map_only(DTensor, lambda t: t.redistribute(placements=whole).to_local(), forward(*args, **kwargs))


def _style(module: nn.Module, style: str) -> ParallelStyle:
    """What is given to a row-wise product may be whole or in parts, whatever came before it."""
    if style == "replicate":
        return Whole()
    if style == "rowwise":
        return RowwiseParallel(input_layouts=Replicate())
    if style == "colwise" and not isinstance(module, nn.Embedding):
        return ColwiseParallel(use_local_output=False)
    return ColwiseParallel(output_layouts=Replicate())


def _tie(model: nn.Module, first: str, others: list[str]) -> None:
    """Cutting gave each module a parameter of its own: they are one again."""
    owner, _, own = first.rpartition(".")
    kept = model.get_submodule(owner).get_parameter(own)
    for name in others:
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner).register_parameter(own, kept)


def _dropped(module: nn.Dropout, x: Tensor) -> Tensor:
    """Dropout; of a value in parts each rank drops what one process would: it draws for all and takes its part."""
    if not isinstance(x, DTensor) or not module.training or module.p == 0:
        return F.dropout(x, module.p, module.training, module.inplace)
    if any(placement.is_partial() for placement in x.placements):
        x = x.redistribute(placements=[Replicate()] * x.device_mesh.ndim)
    drawn = F.dropout(torch.ones(x.shape, dtype=x.dtype, device=x.device), module.p, training=True)
    kept = distribute_tensor(drawn, x.device_mesh, x.placements, src_data_rank=None)
    return x * kept
