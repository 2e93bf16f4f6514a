"""Large arrays between processes: files in shared memory that both sides map, one a task in flight.

The files are unlinked with the worker's first answer, so that nothing is left behind however a process ends. Space is
reserved before it is written to: where shared memory is full, the batch goes through the pipe instead.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import require
from .source import Batch, is_tensor

FOLDER = Path("/dev/shm")  # noqa: S108  # the kernel's shared memory, not a folder for files
LEAST = 1 << 16
"""Arrays below this many bytes are quicker through the pipe."""
ALIGN = 64


class Slots:
    """Files by number, each mapped and grown as needed; slot `turn mod n` belongs to one task until its answer is taken."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = list(paths)
        self._files = [os.open(path, os.O_RDWR) for path in paths]
        self._maps: list[mmap.mmap | None] = [None] * len(paths)

    def view(self, turn: int, size: int) -> memoryview | None:
        """The first `size` bytes of a slot, or None where the memory cannot be had."""
        slot = turn % len(self._files)
        held = self._maps[slot]
        if held is None or len(held) < size:
            try:
                os.posix_fallocate(self._files[slot], 0, size)
            except OSError:
                return None
            held = mmap.mmap(self._files[slot], os.fstat(self._files[slot]).st_size)
            self._maps[slot] = held  # the old mapping goes with the last view of it
        return memoryview(held)[:size]

    def unlink(self) -> None:
        """Take the names away; the memory lives on while it is open."""
        for path in self.paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def close(self) -> None:
        """Give the memory back; safe to call twice."""
        self.unlink()
        self._maps = []
        for file in self._files:
            os.close(file)
        self._files = []


def open_slots(count: int) -> Slots | None:
    """Fresh slots, or None where the system has no shared memory folder."""
    paths: list[str] = []
    try:
        for _ in range(count):
            file, path = tempfile.mkstemp(prefix="mapsto-", dir=FOLDER)
            paths.append(path)
            os.close(file)
        return Slots(paths)
    except OSError:
        for path in paths:
            os.unlink(path)
        return None


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
        placed[name] = (start, array.dtype, array.shape, is_tensor(batch[name]))
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
    for name, (start, dtype, shape, tensor) in content["placed"].items():
        array = np.frombuffer(view, dtype, int(np.prod(shape)), start).reshape(shape).copy()
        batch[name] = _tensor(array) if tensor else array
    return {name: batch[name] for name in content["order"]}


def _plain_array(value: Any) -> np.ndarray[Any, Any] | None:
    """The array to place in shared memory, or None where the pipe does as well or better."""
    if is_tensor(value):
        try:
            value = value.numpy()
        except (TypeError, RuntimeError):  # bfloat16 and the like have no NumPy twin
            return None
    if not isinstance(value, np.ndarray) or value.dtype.hasobject or value.nbytes < LEAST:
        return None
    return value


def _tensor(array: np.ndarray[Any, Any]) -> Any:
    return require("torch", "torch", "a batch of tensors").from_numpy(array)
