"""Whether a component computes in float32 though it is given float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_Mode: Any = TorchDispatchMode


class Casts(_Mode):
    """Within it operators are watched: `seen` tells whether one made float32 of float64."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(
        self, operator: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        if not self.seen and _holds(result, torch.float32):
            self.seen = _holds((args, kwargs), torch.float64)
        return result


def _holds(tree: Any, dtype: torch.dtype) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.dtype == dtype for leaf in tree_leaves(tree))
