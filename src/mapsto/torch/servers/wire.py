"""Tensors on their way between processes: NumPy arrays, which Ray shares without a copy, and the dtypes that NumPy lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_AS_INTEGERS = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.uint8, torch.float8_e5m2: torch.uint8}


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor as an array; dtype: its own, where the array holds the bits as integers."""

    array: Any
    dtype: str | None = None

    @property
    def nbytes(self) -> int:
        return int(self.array.nbytes)


def pack(tensor: Tensor) -> Packed:
    """A dense tensor on any device as an array on the host; of one on the CPU no copy is made."""
    tensor = tensor.detach().cpu()
    held = _AS_INTEGERS.get(tensor.dtype)
    if held is None:
        return Packed(tensor.numpy())
    return Packed(tensor.view(held).numpy(), str(tensor.dtype).removeprefix("torch."))


def unpack(packed: Packed) -> Tensor:
    """The tensor, on the CPU and with storage of its own (what Ray hands out cannot be written to)."""
    tensor = torch.from_numpy(np.array(packed.array))
    return tensor if packed.dtype is None else tensor.view(getattr(torch, packed.dtype))


def write(packed: Packed, to: Tensor) -> None:
    """Copy it into a tensor on any device."""
    to = to.detach()
    if to.device.type == "cpu" and to.is_contiguous():
        np.copyto(pack(to).array, packed.array)
    else:
        to.copy_(unpack(packed))


def pack_tree(tree: Any) -> Any:
    """A state tree whose tensors are packed."""
    if isinstance(tree, Mapping):
        return {k: pack_tree(v) for k, v in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(pack_tree(v) for v in tree)
    return pack(tree) if isinstance(tree, Tensor) else tree


def unpack_tree(tree: Any) -> Any:
    """The inverse of `pack_tree`."""
    if isinstance(tree, Mapping):
        return {k: unpack_tree(v) for k, v in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(unpack_tree(v) for v in tree)
    return unpack(tree) if isinstance(tree, Packed) else tree
