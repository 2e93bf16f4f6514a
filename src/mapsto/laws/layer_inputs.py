"""What the laws of layers do with inputs: arrays in nested tuples, lists and dicts, by path."""

from __future__ import annotations

from typing import Any

from .compare import Array


def placed(tree: Any, path: str, at: str, value: Array) -> Any:
    """The tree that lies at `path`, with what lies at `at` (`input 0[1].mask`) replaced; as it is where it has no such path."""
    if path == at:
        return value
    if type(tree) in (tuple, list):
        return type(tree)(placed(x, f"{path}[{i}]", at, value) for i, x in enumerate(tree))
    return {k: placed(v, f"{path}.{k}", at, value) for k, v in tree.items()} if isinstance(tree, dict) else tree
