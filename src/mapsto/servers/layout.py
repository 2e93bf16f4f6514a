"""What a spec says of the processes, and what lies where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .partition import Rows


class Options(Protocol):
    """What a spec says of the processes (see `Servers`)."""

    servers: int
    workers: int
    staleness: int
    address: str | None
    cpus: float
    gpus: float
    save_every: int | None
    folder: str | None
    restarts: int
    timeout: float


@dataclass(frozen=True)
class Layout:
    """Shapes of the trained parameters by name, the rows of them that each server holds, and the blocks of micro-shards,
    one a worker."""

    shapes: Mapping[str, torch.Size]
    shards: Sequence[Rows]
    blocks: list[range]
