"""Traffic: what a collective moves, told from its operator and its arguments."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed as dist
import torch.distributed.distributed_c10d as _c10d_module
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...planning.traffic import Traffic

_c10d: Any = _c10d_module
NAMESPACES = ("c10d", "_c10d_functional", "_c10d_functional_autograd")
WHOLE = {
    "all-reduce": {
        "allreduce_": "tensors", "allreduce_coalesced_": "tensors", "all_reduce": "input", "all_reduce_": "input",
        "all_reduce_coalesced": "inputs", "all_reduce_coalesced_": "inputs",
    },
    "all-gather": {
        "allgather_": "output_tensors", "_allgather_base_": "output_tensor", "allgather_coalesced_": "output_lists",
        "allgather_into_tensor_coalesced_": "outputs", "all_gather_into_tensor": "", "all_gather_into_tensor_out": "",
        "all_gather_into_tensor_coalesced": "",
    },
    "reduce-scatter": {
        "reduce_scatter_": "input_tensors", "_reduce_scatter_base_": "input_tensor",
        "reduce_scatter_tensor_coalesced_": "inputs", "reduce_scatter_tensor": "input",
        "reduce_scatter_tensor_out": "input", "reduce_scatter_tensor_coalesced": "inputs",
    },
    "all-to-all": {"alltoall_": "input_tensors", "alltoall_base_": "input", "all_to_all_single": "input"},
    "broadcast": {"broadcast_": "tensors", "broadcast": "input"},
    "reduce": {"reduce_": "tensors"},
    "gather": {"gather_": "input_tensors"},
    "scatter": {"scatter_": "output_tensors"},
    "send": {"send": "tensors", "isend": "tensor"},
    "receive": {"recv_": "tensors", "recv_any_source_": "tensors", "irecv": "tensor"},
}  # fmt: skip
"""Collective -> the operators that are it, each with the argument that holds the whole of what is moved (`""`: its result)."""

_FOUND = {operator: (name, argument) for name, operators in WHOLE.items() for operator, argument in operators.items()}


def collectives(operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> Iterator[Traffic]:
    """What an operator of torch.distributed moves; nothing for a barrier or a wait."""
    name = operator.__name__.partition(".")[0]
    if name not in _FOUND and name != "batch_p2p_ops":
        return
    named = {**dict(zip(_arguments(operator), args, strict=False)), **kwargs}
    group = named.get("process_group", named.get("group_name"))
    ranks, axis = _group(group)
    if name == "batch_p2p_ops":
        for what, tensor in zip(named["op_list"], named["tensors"], strict=True):
            yield Traffic("send" if what == "isend" else "receive", _bytes(tensor), ranks, axis)
        return
    collective, argument = _FOUND[name]
    size = _bytes(named[argument] if argument else result)
    yield Traffic(collective, size * ranks if collective in ("gather", "scatter") else size, ranks, axis)


def _bytes(tree: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tree_leaves(tree) if isinstance(t, Tensor))


@functools.cache
def _arguments(operator: Any) -> tuple[str, ...]:
    return tuple(argument.name for argument in operator._schema.arguments)


def _group(group: Any) -> tuple[int, str]:
    """Ranks in a process group, given as an object or by its name, and the mesh axis that it was made for."""
    if isinstance(group, str):
        found: Any = _c10d._resolve_process_group(group)
    else:
        found = group if isinstance(group, dist.ProcessGroup) else dist.ProcessGroup.unbox(group)
    said = str(getattr(found, "group_desc", ""))
    return found.size(), said.removeprefix("mesh_") if said.startswith("mesh_") else ""
