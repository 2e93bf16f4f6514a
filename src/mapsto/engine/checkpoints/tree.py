"""State trees as files: tensors by path, everything else as JSON that reads back as exactly what was written.

A value that JSON has no word for becomes `{"$": kind, "v": ...}`. Nothing is pickled, so reading runs no code.
"""

from __future__ import annotations

import base64
import io
import math
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import CheckpointError
from ...core.json_text import DEEPEST
from ...core.per_rank import PerRank

TAG = "$"
ALLOWED = (
    "tensors, None, bool, int, float, complex, str, bytes, NumPy arrays and scalars, and dict, OrderedDict, Counter, list, "
    "tuple, set, frozenset or deque of them"
)


def flatten(tree: Any, is_tensor: Callable[[Any], bool], root: str = "", rank: int = 0) -> tuple[Any, dict[str, Any]]:
    """(plain, tensors): JSON data in which a tensor is a reference, and the tensors by their path in the tree.

    rank: whose `PerRank` leaves these are. Raises CheckpointError naming the path of a value of any other type, or of a
    container that contains itself.
    """
    writer = _Writer(is_tensor, rank)
    return writer.plain(tree, root), writer.tensors


def unflatten(plain: Any, tensors: Mapping[str, Any], rank: int = 0) -> Any:
    """The tree again. Raises CheckpointError where a tensor is missing or belongs nowhere, or a kind is unknown.

    rank: whose `PerRank` leaves are wanted; they hold None where `tensors` has none of this rank.
    """
    reader = _Reader(tensors, rank)
    tree = reader.value(plain)
    if unexpected := sorted(set(tensors) - reader.used):
        raise CheckpointError(f"the state refers to no tensor {', '.join(unexpected[:5])}, which its tensor file holds")
    return tree


def references(plain: Any, path: Path) -> tuple[list[str], dict[str, bool]]:
    """(names of tensors, names of those that are each rank's own and whether they may start afresh) in the plain data of a
    checkpoint. Raises CheckpointError where a name is none."""
    tensors: list[str] = []
    own: dict[str, bool] = {}

    def look(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                look(item)
        elif isinstance(value, dict) and value.get(TAG) == "tensor":
            tensors.append(_named(value.get("v"), path))
        elif isinstance(value, dict) and value.get(TAG) == "per_rank":
            name, afresh = value["v"] if isinstance(value.get("v"), list) and len(value["v"]) == 2 else (None, False)
            own[_named(name, path)] = bool(afresh)
        elif isinstance(value, dict):
            for item in value.values():
                look(item)

    look(plain)
    return tensors, own


def _named(name: Any, path: Path) -> str:
    if not isinstance(name, str):
        raise CheckpointError(f"{path}: the state refers to a tensor by {str(name)[:40]!r}, which is no name")
    return name


def merged(trees: list[Any]) -> Any:
    """Plain data of ranks that hold different parts of a state, as one: of mappings all keys, of lists of names all names."""
    first = trees[0]
    if all(isinstance(tree, dict) for tree in trees):
        keys = dict.fromkeys(key for tree in trees for key in tree)
        return {key: merged([tree[key] for tree in trees if key in tree]) for key in keys}
    if all(isinstance(tree, list) for tree in trees) and any(tree != first for tree in trees):
        if all(isinstance(item, str) for tree in trees for item in tree):
            return list(dict.fromkeys(item for tree in trees for item in tree))
        if len({len(tree) for tree in trees}) == 1:
            return [merged(list(items)) for items in zip(*trees, strict=True)]
    return first


def unlike(trees: list[Any], path: str) -> Iterator[str]:
    """Paths of plain values that ranks have under one name and that are not one value, so that no file holds them all."""
    first = trees[0]
    if all(isinstance(tree, dict) for tree in trees):
        for key in dict.fromkeys(key for tree in trees for key in tree):
            yield from unlike([tree[key] for tree in trees if key in tree], f"{path}.{key}")
    elif all(isinstance(tree, list) and len(tree) == len(first) for tree in trees):
        for i, items in enumerate(zip(*trees, strict=True)):
            yield from unlike(list(items), f"{path}.{i}")
    elif any(tree != first for tree in trees) and not all(isinstance(tree, list) and _names(tree) for tree in trees):
        yield path


def _names(items: list[Any]) -> bool:
    return all(isinstance(item, str) for item in items)


def of_rank(name: str, rank: int) -> str:
    """The name of a rank's own tensor."""
    return f"{name}@{rank}"


class _Writer:
    def __init__(self, is_tensor: Callable[[Any], bool], rank: int = 0) -> None:
        self.is_tensor, self.rank = is_tensor, rank
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
        if kind is PerRank:
            return self._own(value, path)
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

    def _own(self, value: PerRank, path: str) -> Any:
        if self.is_tensor(value.value):
            self.tensors[of_rank(path, self.rank)] = value.value
        elif value.value is not None:
            raise CheckpointError(f"{path}: PerRank holds a {type(value.value).__name__}, and a tensor is wanted")
        return _tagged("per_rank", [path, value.afresh])

    def _container(self, value: Any, path: str) -> Any:
        if len(self._open) > DEEPEST // 4:  # a level here is up to four of JSON
            raise CheckpointError(f"{path[:80]}...: more than {DEEPEST // 4} levels within each other cannot be kept")
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
    def __init__(self, tensors: Mapping[str, Any], rank: int = 0) -> None:
        self.tensors, self.rank = tensors, rank
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

    def own(self, name: str, afresh: bool) -> PerRank:
        mine = of_rank(name, self.rank)
        return PerRank(self.tensor(mine) if mine in self.tensors else None, afresh)

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
    "per_rank": lambda r, v: r.own(*v),
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
