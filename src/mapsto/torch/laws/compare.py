"""The comparisons of `mapsto.laws.compare` for trees of tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.laws import Trial
from ...laws import compare
from ...laws.compare import ATOL, RTOL, Exact, leaves

__all__ = [
    "ATOL",
    "RTOL",
    "arrays",
    "close_to_oracle",
    "differs",
    "first_difference",
    "leaves",
    "max_error",
    "ratio_cause",
    "rounded",
    "same",
    "tensors",
]


def arrays(tree: Any) -> Any:
    """The tree with its tensors as NumPy arrays (no copy where they lie on the CPU); those of other dtypes as `Exact`."""
    if isinstance(tree, Tensor):
        return _array(tree)
    if isinstance(tree, Mapping):
        return {k: arrays(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return tuple(map(arrays, tree)) if type(tree) is tuple else [arrays(v) for v in tree]
    return tree


def tensors(tree: Any) -> Any:
    """The tree of inputs with its arrays as tensors of their own, and copies of what else lies in it."""
    if isinstance(tree, Exact):
        return torch.from_numpy(tree.values).to(getattr(torch, tree.dtype))
    if isinstance(tree, np.ndarray):
        return torch.from_numpy(tree.copy())
    if type(tree) in (tuple, list):
        return type(tree)(tensors(x) for x in tree)
    return {k: tensors(v) for k, v in tree.items()} if isinstance(tree, dict) else copy.copy(tree)


def _array(tensor: Tensor) -> np.ndarray[Any, Any] | Exact:
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    plain = plain if plain.layout is torch.strided else plain.to_dense()
    name = str(plain.dtype).removeprefix("torch.")
    if plain.is_quantized:
        return Exact(plain.dequantize().numpy(), name)
    if hasattr(np, name) or name == "bool":
        made: np.ndarray[Any, Any] = plain.numpy()
        return made
    return Exact(plain.to(torch.complex64 if plain.is_complex() else torch.float64).numpy(), name)


def same(trial: Trial, what: str, got: Any, want: Any, **said: Any) -> None:
    """`compare.same` of trees of tensors."""
    compare.same(trial, what, arrays(got), arrays(want), **said)


def differs(got: Any, want: Any) -> bool:
    """`compare.differs` of trees of tensors."""
    return compare.differs(arrays(got), arrays(want))


def rounded(got: Any, want: Any) -> bool:
    """`compare.rounded` of trees of tensors."""
    return compare.rounded(arrays(got), arrays(want))


def first_difference(got: Tensor, want: Tensor, tolerance: str) -> list[int] | None:
    """`compare.first_difference` of tensors."""
    return compare.first_difference(_array(got), _array(want), tolerance)


def max_error(got: Tensor, want: Tensor) -> float:
    """`compare.max_error` of tensors."""
    return compare.max_error(_array(got), _array(want))


def close_to_oracle(trial: Trial, what: str, candidate: Any, eager: Any, oracle: Any, **said: Any) -> None:
    """`compare.close_to_oracle` of trees of tensors."""
    compare.close_to_oracle(trial, what, arrays(candidate), arrays(eager), arrays(oracle), **said)


def ratio_cause(got: Tensor, want: Tensor) -> str | None:
    """`compare.ratio_cause` of tensors."""
    return compare.ratio_cause(_array(got), _array(want))
