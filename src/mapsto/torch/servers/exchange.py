"""What middleware on a server may ask of the mesh: the norm of a gradient that lies on several, a flag that one raised."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ...servers import exchange
from ..mesh.one import OneProcess


class Exchange(exchange.Exchange, OneProcess):
    """The mesh of a server: all tell each other a number of their own rows, and all sum in one order."""

    def __init__(self, rank: int, servers: int, timeout: float) -> None:
        OneProcess.__init__(self)
        exchange.Exchange.__init__(self, rank, servers, timeout)

    def agree(self, flag: Tensor) -> Tensor:
        """The largest of a flag over the servers."""
        if self.world == 1:
            return flag
        return torch.full_like(flag, max(self.gather(float(flag))))

    def norm(self, tensors: Iterable[Tensor], p: float = 2.0) -> Tensor:
        """The p-norm over all elements of the gradients on all servers."""
        held = list(tensors)
        filled = [t for t in held if t.numel()]
        own = torch.nn.utils.get_total_norm(filled, p) if filled else torch.zeros(())
        if self.world == 1:
            return own
        dtype = held[0].dtype if held else own.dtype
        if math.isinf(p):
            return torch.tensor(_largest(self.gather(float(own))), dtype=dtype)
        return torch.tensor(math.fsum(self.gather(float(own) ** p)) ** (1 / p), dtype=dtype)


def _largest(values: Sequence[float]) -> float:
    """The maximum; NaN where one is, which `max` may pass over."""
    return next((v for v in values if math.isnan(v)), max(values))
