"""A reader in the place of torch's DataLoader."""

from __future__ import annotations

import functools
from typing import Any, Unpack

from ..data.loader import Loader as AnyLoader
from ..data.loader import Slice
from .placement import find_device, place


class Loader(AnyLoader):
    """`mapsto.data.Loader` whose batches are dicts of tensors; fields that are no arrays stay as they are.

    device: where they are put, `cpu` unless said (most frameworks move them themselves); other arguments as there.
    """

    def __init__(self, reader: Any, *, device: str = "cpu", **slice_of: Unpack[Slice]) -> None:
        super().__init__(reader, convert=functools.partial(place, device=find_device(str(device))), **slice_of)
