"""Placement: where a batch and a model go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from ..core.errors import DataError, SpecError, first_line
from ..data.stream import PaddingBatch


def find_device(name: str) -> torch.device:
    """`auto` (the first CUDA device where there is one, else the CPU) or a device's own name. Raises SpecError."""
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        return torch.empty(0, device=torch.device(name)).device  # with its index
    except (RuntimeError, AssertionError) as error:
        count = torch.cuda.device_count()
        there = "cpu" + "".join(f", cuda:{i}" for i in range(count))
        raise SpecError(f"device: {name!r} cannot be used here (there is {there}): {first_line(error)}") from None


def known_device(name: str) -> None:
    """Raise SpecError for a name that torch has no device by, on any machine."""
    try:
        if name != "auto":
            torch.device(name)
    except RuntimeError:
        raise SpecError(f"device: {name!r} is no device of torch, such as auto, cpu, cuda, cuda:1, mps or xpu") from None


def place(batch: Any, device: torch.device) -> Any:
    """A batch of arrays as tensors on the device: no copy on the CPU, pinned and asynchronous towards a GPU.

    A pair (x, y) is read as the fields `input` and `target`; fields that are no arrays stay as they are. Of several
    micro-shards each is placed.
    """
    if isinstance(batch, list) and all(isinstance(part, Mapping) for part in batch):
        return [place(part, device) for part in batch]
    if not isinstance(batch, Mapping):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(f"a batch is a dict of fields or a pair (input, target), not a {type(batch).__name__}")
        batch = {"input": batch[0], "target": batch[1]}
    kind = PaddingBatch if isinstance(batch, PaddingBatch) else dict
    return kind({name: _place(value, device) for name, value in batch.items()})


def _place(value: Any, device: torch.device) -> Any:
    if isinstance(value, numpy.ndarray):
        if value.dtype.kind not in "biufc":
            return value
        value = torch.from_numpy(value if value.flags.writeable else value.copy())
    if not isinstance(value, Tensor) or value.device == device:
        return value
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def describe(batch: Any) -> str:
    """The shapes of a batch in one line: `input float32[64, 8, 8], target int64[64]`."""
    if isinstance(batch, list) and all(isinstance(part, Mapping) for part in batch):
        return f"{len(batch)} micro-shards, of which the first: {describe(batch[0])}" if batch else "no micro-shard"
    if isinstance(batch, (tuple, list)):
        batch = dict(zip(("input", "target"), batch, strict=False))
    said = []
    for name, value in batch.items():
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            said.append(f"{name} {str(value.dtype).removeprefix('torch.')}{list(value.shape)}")
        else:
            said.append(f"{name} {type(value).__name__}")
    return ", ".join(said)
