"""Copies: tensors that may be changed for a while and are put back bitwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..mesh.one import local


@contextmanager
def kept(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Within it the tensors may be changed in place; they are copied back bitwise at its end, after an exception too."""
    local_tensors = [local(t.detach()) for t in tensors]
    saved = [t.clone() for t in local_tensors]
    try:
        yield
    finally:
        if local_tensors:
            torch._foreach_copy_(local_tensors, saved)
