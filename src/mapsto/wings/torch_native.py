"""What PyTorch is asked where it is loaded (`mapsto.core.native.Native`): its tensors as batches hold them, its ranks."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

COLLECTIVES = 200
"""Collectives of a rank that are kept."""


def _torch() -> Any:
    """The framework; a function, so that this file can be read before it is imported."""
    return importlib.import_module("torch")


def is_array(value: Any) -> bool:
    """Whether it is a tensor."""
    return isinstance(value, _torch().Tensor)


def on_device(array: Any) -> str:
    """The tensor's device, where it is not the CPU."""
    return "" if array.device.type == "cpu" else str(array.device)


def detached(array: Any) -> Any:
    """The tensor without its graph."""
    return array.detach()


def to_numpy(array: Any) -> Any:
    """The tensor's memory as a NumPy array. Raises TypeError or RuntimeError for bfloat16, sparse and the like."""
    return array.numpy()


def from_numpy(array: Any) -> Any:
    """A NumPy array's memory as a tensor."""
    return _torch().from_numpy(array)


def rows(array: Any, indices: Any) -> Any:
    """Rows of a NumPy array as a tensor: NumPy's `take` gathers 1.5 to 6 times as fast as indexing a tensor."""
    return _torch().from_numpy(array.take(indices, 0))


def take(array: Any, indices: Any) -> Any:
    """Rows of a tensor."""
    torch = _torch()
    return torch.index_select(array, 0, torch.as_tensor(indices, dtype=torch.int64))


def concatenate(arrays: Sequence[Any]) -> Any:
    """Tensors one after another."""
    return _torch().cat(list(arrays))


def stack(arrays: Sequence[Any], shape: Sequence[int], dtype: Any) -> Any:
    """Tensors along a new first axis."""
    torch = _torch()
    return torch.stack(list(arrays)) if len(arrays) else torch.empty((0, *shape), dtype=dtype)


def cast(array: Any, dtype: Any) -> Any:
    """The tensor in another dtype."""
    return array.to(dtype)


def dtype_name(dtype: Any) -> str:
    """`float32` of `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def to_bytes(array: Any) -> bytes:
    """The bytes of all elements in order, of a tensor on any device and of any dtype."""
    plain = array.detach().cpu().contiguous().reshape(-1)
    found: bytes = plain.view(_torch().uint8).numpy().tobytes()
    return found


def is_dataset(value: Any) -> bool:
    """Whether it is a `torch.utils.data.Dataset`."""
    return any(c.__module__.startswith("torch.utils.data") and c.__name__ == "Dataset" for c in type(value).__mro__)


def ranks() -> tuple[int, int] | None:
    """Rank and world size of the default process group, where there is one."""
    distributed = getattr(_torch(), "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return int(distributed.get_rank()), int(distributed.get_world_size())


def collectives() -> list[dict[str, Any]]:
    """The flight recorder's last entries, where there is a process group; nothing where its private form has changed."""
    if ranks() is None:
        return []
    try:
        text = _torch()._C._distributed_c10d._dump_fr_trace_json(includeCollectives=True, onlyActive=False)
        found = json.loads(text)["entries"]
    except Exception:  # noqa: BLE001  # private to the framework: where it has changed, there is nothing to tell
        return []
    return [dict(entry) for entry in found[-COLLECTIVES:]]
