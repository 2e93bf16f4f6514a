"""Vitals of a torch program: which parameters no gradient reached, and whose weights are bit by bit what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .mesh.one import local
from .state import State

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class HealthProbe:
    """What this process tells at a log: memory of the device, seconds of its own work and, when asked, its parameters."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._before: list[tuple[int, float]] | None = None

    def __call__(self, parameters: bool) -> dict[str, Any]:
        """device: bytes allocated, on CUDA; busy: seconds since it was asked last, where ranks measure them; parameters."""
        state = self.state
        found: dict[str, Any] = {}
        if state.device.type == "cuda":
            found["device"] = torch.cuda.memory_allocated(state.device)
        if (busy := getattr(state.mesh, "busy", None)) is not None:
            found["busy"] = busy.since()
        return found | ({"parameters": self.parameters()} if parameters else {})

    @torch.no_grad()
    def parameters(self) -> dict[str, Any]:
        """Names of trained parameters: `none` have no gradient, `lifeless` none or one of zeros, `unchanged` the same bits as
        at the last call; of a parameter that lies on several ranks it is this rank's part that counts."""
        state = self.state
        local_tensors = [local(p.detach()) for p in state.parameters]
        gradients = [None if p.grad is None else _values(local(p.grad)) for p in state.parameters]
        lengths = iter(_norms([g for g in gradients if g is not None]))
        none = [name for name, g in zip(state.names, gradients, strict=True) if g is None]
        zero = [
            name for name, g in zip(state.names, gradients, strict=True) if g is not None and not next(lengths) and not g.any()
        ]
        now = list(zip(_sums(local_tensors), _norms(local_tensors), strict=True))
        before, self._before = self._before, now
        # not-a-number is never equal to itself, so what is broken counts as changed: another finding tells of it
        same = [n for n, a, b in zip(state.names, before, now, strict=True) if a == b] if before is not None else []
        digest = hashlib.blake2b("\n".join(state.names).encode(), digest_size=8).hexdigest()
        return {"digest": digest, "count": len(local_tensors), "none": none, "lifeless": [*none, *zero], "unchanged": same}


def _values(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _norms(tensors: Sequence[Tensor]) -> list[float]:
    """The length of each; it may be 0 for what is not zero but tiny."""
    return _read(torch._foreach_norm(list(tensors), 2.0)) if tensors else []


def _sums(tensors: Sequence[Tensor]) -> list[int]:
    """The sum of each one's bits read as integers, which wraps around: where an element changed it differs, unless others
    make up for it."""
    return _read([bits.sum(dtype=bits.dtype) for bits in map(_bits, tensors)])


def _read(scalars: Sequence[Tensor]) -> list[Any]:
    """Scalars of the device as Python numbers, copied together so that the device is waited for once."""
    if not scalars:
        return []
    device = scalars[0].device
    found: list[Any] = torch.stack([s if s.device == device else s.to(device) for s in scalars]).tolist()
    return found


def _bits(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.view(_INTEGERS[real.element_size()])
