"""A reader in the place of torch's DataLoader."""

from __future__ import annotations

import functools
from typing import Any

from ..data.loader import Loader as AnyLoader
from .placement import find_device, place


class Loader(AnyLoader):
    """`mapsto.data.Loader` whose batches are dicts of tensors; fields that are no arrays stay as they are.

    device: where they are put, `cpu` unless said (most frameworks move them themselves); other arguments as there.
    """

    def __init__(
        self,
        reader: Any,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        micro_shards: int | None = None,
        device: str = "cpu",
    ) -> None:
        convert = functools.partial(place, device=find_device(str(device)))
        super().__init__(reader, rank=rank, world_size=world_size, micro_shards=micro_shards, convert=convert)
