"""State trees as files: tensors by path, everything else as JSON that reads back as exactly what was written.

A value that JSON has no word for becomes `{"$": kind, "v": ...}`. Nothing is pickled, so reading runs no code.
"""

from __future__ import annotations

import base64
import io
import math
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..core.errors import CheckpointError

TAG = "$"
ALLOWED = (
    "tensors, None, bool, int, float, complex, str, bytes, NumPy arrays and scalars, and dict, OrderedDict, Counter, list, "
    "tuple, set, frozenset or deque of them"
)


def flatten(tree: Any, is_tensor: Callable[[Any], bool], root: str = "") -> tuple[Any, dict[str, Any]]:
    """(plain, tensors): JSON data in which a tensor is a reference, and the tensors by their path in the tree.

    Raises CheckpointError naming the path of a value of any other type, or of a container that contains itself.
    """
    writer = _Writer(is_tensor)
    return writer.plain(tree, root), writer.tensors


def unflatten(plain: Any, tensors: Mapping[str, Any]) -> Any:
    """The tree again. Raises CheckpointError where a tensor is missing or belongs nowhere, or a kind is unknown."""
    reader = _Reader(tensors)
    tree = reader.value(plain)
    if unexpected := sorted(set(tensors) - reader.used):
        raise CheckpointError(f"the state refers to no tensor {', '.join(unexpected[:5])}, which its tensor file holds")
    return tree


class _Writer:
    def __init__(self, is_tensor: Callable[[Any], bool]) -> None:
        self.is_tensor = is_tensor
        self.tensors: dict[str, Any] = {}
        self._open: set[int] = set()

    def plain(self, value: Any, path: str) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -(1 << 63) <= value < (1 << 64) else _tagged("int", hex(value))
        if kind is float:
            return value if math.isfinite(value) else _tagged("float", struct.pack(">d", value).hex())
        if self.is_tensor(value):
            return _tagged("tensor", self._name(value, path))
        if isinstance(value, (dict, list, tuple, set, frozenset, deque)):
            return self._container(value, path)
        if kind is np.ndarray or isinstance(value, np.generic):
            return _tagged("array" if kind is np.ndarray else "scalar", _npy(value, path))
        if kind is bytes or kind is bytearray:
            return _tagged(kind.__name__, base64.b64encode(value).decode())
        if kind is complex:
            return _tagged("complex", [self.plain(value.real, path), self.plain(value.imag, path)])
        raise _refused(value, path)

    def _name(self, value: Any, path: str) -> str:
        name, twin = path, 1
        while name in self.tensors:  # {"a.b": x, "a": {"b": y}} have one path
            twin += 1
            name = f"{path}#{twin}"
        self.tensors[name] = value
        return name

    def _container(self, value: Any, path: str) -> Any:
        if id(value) in self._open:
            raise CheckpointError(f"{path or 'the state'}: it contains itself, which a checkpoint cannot hold")
        self._open.add(id(value))
        try:
            return self._mapping(value, path) if isinstance(value, dict) else self._sequence(value, path)
        finally:
            self._open.discard(id(value))

    def _mapping(self, value: dict[Any, Any], path: str) -> Any:
        kind = type(value)
        if kind is dict and TAG not in value and all(type(k) is str for k in value):
            return {k: self.plain(v, _join(path, k)) for k, v in value.items()}
        if kind not in (dict, OrderedDict, Counter):
            raise _refused(value, path)
        pairs = [[self.plain(k, f"key {k!r} of {path}"), self.plain(v, _join(path, k))] for k, v in value.items()]
        return _tagged(kind.__name__, pairs)

    def _sequence(self, value: Iterable[Any], path: str) -> Any:
        kind = type(value)
        items = [self.plain(v, _join(path, i)) for i, v in enumerate(value)]
        if kind is list:
            return items
        if isinstance(value, deque) and kind is deque:
            return _tagged("deque", [items, value.maxlen])
        if kind in (tuple, set, frozenset):
            return _tagged(kind.__name__, items)
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return _tagged("tuple", items)  # torch.Size and the like equal the tuple of their values
        raise _refused(value, path)


class _Reader:
    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self.tensors = tensors
        self.used: set[str] = set()

    def value(self, plain: Any) -> Any:
        if isinstance(plain, list):
            return [self.value(v) for v in plain]
        if not isinstance(plain, dict):
            return plain
        if TAG not in plain:
            return {k: self.value(v) for k, v in plain.items()}
        kind, content = plain[TAG], plain.get("v")
        if kind in _PLAIN:
            return _PLAIN[kind](content)
        if kind not in _NESTED:
            raise CheckpointError(f"the state holds a value of the unknown kind {kind!r}")
        return _NESTED[kind](self, content)

    def tensor(self, name: str) -> Any:
        if name not in self.tensors:
            raise CheckpointError(f"the tensor file has no tensor {name!r}, which the state refers to")
        self.used.add(name)
        return self.tensors[name]

    def values(self, content: list[Any]) -> list[Any]:
        return [self.value(v) for v in content]

    def pairs(self, content: list[Any]) -> list[tuple[Any, Any]]:
        return [(self.value(k), self.value(v)) for k, v in content]


def _array(content: str) -> Any:
    return np.load(io.BytesIO(base64.b64decode(content)), allow_pickle=False)


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "int": lambda v: int(v, 16),
    "float": lambda v: struct.unpack(">d", bytes.fromhex(v))[0],
    "bytes": base64.b64decode,
    "bytearray": lambda v: bytearray(base64.b64decode(v)),
    "array": _array,
    "scalar": lambda v: _array(v)[()],
}
_NESTED: dict[str, Callable[[_Reader, Any], Any]] = {
    "tensor": lambda r, v: r.tensor(v),
    "complex": lambda r, v: complex(*r.values(v)),
    "tuple": lambda r, v: tuple(r.values(v)),
    "set": lambda r, v: set(r.values(v)),
    "frozenset": lambda r, v: frozenset(r.values(v)),
    "deque": lambda r, v: deque(r.values(v[0]), maxlen=v[1]),
    "dict": lambda r, v: dict(r.pairs(v)),
    "OrderedDict": lambda r, v: OrderedDict(r.pairs(v)),
    "Counter": lambda r, v: Counter(dict(r.pairs(v))),
}


def _tagged(kind: str, content: Any) -> dict[str, Any]:
    return {TAG: kind, "v": content}


def _join(path: str, step: Any) -> str:
    own = step if isinstance(step, str) else repr(step)
    return f"{path}.{own}" if path else own


def _npy(value: Any, path: str) -> str:
    array = np.asarray(value)
    described = np.lib.format.dtype_to_descr(array.dtype) if not array.dtype.hasobject else None
    if described is None or np.lib.format.descr_to_dtype(described) != array.dtype:
        raise CheckpointError(f"{path}: an array of {array.dtype} cannot be kept in a checkpoint without pickling it")
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def _refused(value: Any, path: str) -> CheckpointError:
    kind = type(value)
    return CheckpointError(
        f"{path or 'the state'}: a {kind.__module__}.{kind.__qualname__} cannot be kept in a checkpoint; "
        f"return from state_dict() only {ALLOWED}"
    )
