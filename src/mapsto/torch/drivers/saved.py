"""A state as bytes, the way a checkpoint keeps it: what is read back shares no memory with what goes on."""

from __future__ import annotations

import io
from typing import Any

import torch


def as_bytes(state: Any) -> bytes:
    """A `state_dict()` as bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(saved: bytes) -> Any:
    """What `as_bytes` made bytes of."""
    return torch.load(io.BytesIO(saved), weights_only=False)
