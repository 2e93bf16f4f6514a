"""State trees cut and joined by the rows that lie on each server.

Every server knows every parameter by its name; of those that lie elsewhere it holds none of the rows. So groups, names and
averages are in form the same on all of them, and a tree of the whole is that of the pieces with the rows put together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...servers.layout import Layout
from ...servers.partition import Rows
from . import wire


def packed_part(layout: Layout, tree: Any, server: int) -> Any:
    """Of a program's state tree what one server holds, packed for the way."""
    return wire.pack_tree(cut(tree, layout.shapes, layout.shards, server))


def whole(layout: Layout, parts: Sequence[Any]) -> dict[str, Any]:
    """The tree of one program, without its buffers, of the packed ones of all servers."""
    found: dict[str, Any] = join([wire.unpack_tree(part) for part in parts], layout.shapes, layout.shards)
    return found


def rows_from(tensor: Tensor, rows: range) -> Tensor:
    """Those rows of a full tensor (a view); of a scalar itself, or an empty tensor where it lies elsewhere."""
    if tensor.dim():
        return tensor[rows.start : rows.stop]
    return tensor if rows else tensor.new_empty(0)


def cut(tree: Any, shapes: Mapping[str, tuple[int, ...]], shards: Sequence[Rows], server: int) -> Any:
    """Of a canonical state tree what one server holds.

    Below a parameter's name, tensors of its shape are cut by rows; where nothing of a parameter lies on the server, its
    optimizer state is left out.
    """

    def walk(value: Any, name: str | None) -> Any:
        if isinstance(value, Mapping):
            absent = [k for k, v in value.items() if k in shapes and isinstance(v, Mapping) and not shards[server][k]]
            return {k: walk(v, k if k in shapes else name) for k, v in value.items() if k not in absent}
        if type(value) in (list, tuple):
            return type(value)(walk(v, name) for v in value)
        if isinstance(value, Tensor) and name is not None and value.shape == shapes[name]:
            return rows_from(value, shards[server][name])
        return value

    return walk(tree, None)


def join(trees: Sequence[Any], shapes: Mapping[str, tuple[int, ...]], shards: Sequence[Rows]) -> Any:
    """The canonical state tree of the servers' own: the inverse of `cut`."""

    def walk(held: Sequence[tuple[int, Any]], name: str | None) -> Any:
        first = held[0][1]
        if isinstance(first, Mapping):
            keys = dict.fromkeys(key for _, tree in held for key in tree)
            found = {key: having(key, held) for key in keys}
            return {key: walk(parts, key if key in shapes else name) for key, parts in found.items() if parts}
        if type(first) in (list, tuple):
            return type(first)(walk([(k, v[i]) for k, v in held], name) for i in range(len(first)))
        if isinstance(first, Tensor) and name is not None and len(held) > 1 and all(is_cut(v, name, k) for k, v in held):
            return torch.cat([v for _, v in held])
        return first

    def is_cut(value: Tensor, name: str, server: int) -> bool:
        return value.shape == (len(shards[server][name]), *shapes[name][1:])

    def having(key: Any, held: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
        """Those that have a key; where it is a parameter's name, those that hold rows of it (all, where it has none)."""
        return [
            (k, v[key]) for k, v in held if key in v and (key not in shapes or shards[k][key] or not math.prod(shapes[key]))
        ]

    return walk(list(enumerate(trees)), None)
