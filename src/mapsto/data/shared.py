"""Large arrays between processes: anonymous memory that both sides map, one piece a task in flight.

The memory has no name, so nothing is left behind however a process ends. It is reserved before it is written to: where it
cannot be had, or the system has none of this kind, the batch goes through the pipe instead.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np

from ..core.native import native, native_of, wing_of_array
from .source import Batch

LEAST = 1 << 17
"""Arrays below this many bytes are quicker through the pipe."""
ALIGN = 64


class Slots:
    """Pieces of memory by number, mapped and grown as needed; piece `turn mod n` is one task's until its answer is taken.

    Pickled while a process is started, it arrives there as the same memory.
    """

    def __init__(self, files: Sequence[Any]) -> None:
        self.files: list[int] = [f if isinstance(f, int) else f.detach() for f in files]
        self._maps: list[mmap.mmap | None] = [None] * len(files)

    def __reduce__(self) -> tuple[Any, ...]:
        return Slots, ([DupFd(f) for f in self.files],)

    def view(self, turn: int, size: int) -> memoryview | None:
        """The first `size` bytes of a slot, or None where the memory cannot be had."""
        slot = turn % len(self.files)
        held = self._maps[slot]
        if held is None or len(held) < size:
            try:
                os.posix_fallocate(self.files[slot], 0, size)
            except OSError:
                return None
            held = mmap.mmap(self.files[slot], os.fstat(self.files[slot]).st_size)
            self._maps[slot] = held  # the old mapping goes with the last view of it
        return memoryview(held)[:size]

    def close(self) -> None:
        """Give the memory back; safe to call twice."""
        files, self.files, self._maps = self.files, [], []
        for file in files:
            os.close(file)


def open_slots(count: int) -> Slots | None:
    """Fresh slots, or None where the system has no anonymous files in memory (it is Linux that has)."""
    create = getattr(os, "memfd_create", None)
    if create is None:
        return None
    files: list[int] = []
    try:
        files += (create("mapsto-data") for _ in range(count))
    except OSError:
        Slots(files).close()
        return None
    return Slots(files)


def pack(batch: Batch, slots: Slots | None, turn: int) -> Mapping[str, Any]:
    """A batch as it is sent: arrays of some size written to the slot and described, everything else as it is."""
    large = {name: _plain_array(value) for name, value in batch.items()}
    places, size = {}, 0
    for name, array in large.items():
        if array is not None:
            places[name] = size
            size += -(-array.nbytes // ALIGN) * ALIGN
    view = slots.view(turn, size) if slots is not None and size else None
    if view is None:
        return {"plain": batch, "placed": {}, "size": 0}
    placed = {}
    for name, start in places.items():
        array = large[name]
        assert array is not None
        np.frombuffer(view, array.dtype, array.size, start).reshape(array.shape)[...] = array
        placed[name] = (start, array.dtype, array.shape, wing_of_array(batch[name]))
    return {"plain": {n: v for n, v in batch.items() if n not in placed}, "placed": placed, "size": size, "order": list(batch)}


def unpack(content: Mapping[str, Any], slots: Slots | None, turn: int) -> Batch:
    """The batch that was packed, its arrays copied out, so that the slot can be used again."""
    if not content["placed"]:
        plain: Batch = content["plain"]
        return plain
    assert slots is not None
    view = slots.view(turn, content["size"])
    assert view is not None
    batch = dict(content["plain"])
    for name, (start, dtype, shape, wing) in content["placed"].items():
        array = np.frombuffer(view, dtype, int(np.prod(shape)), start).reshape(shape).copy()
        batch[name] = native(wing).from_numpy(array) if wing else array
    return {name: batch[name] for name in content["order"]}


def _plain_array(value: Any) -> np.ndarray[Any, Any] | None:
    """The array to place in shared memory, or None where the pipe does as well or better."""
    if (own := native_of(value)) is not None:
        try:
            value = own.to_numpy(value)
        except (TypeError, RuntimeError):  # bfloat16 and the like have no NumPy twin
            return None
    if not isinstance(value, np.ndarray) or value.dtype.hasobject or value.nbytes < LEAST:
        return None
    return value
