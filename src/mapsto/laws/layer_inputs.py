"""What the laws of layers do with inputs: arrays in nested tuples, lists and dicts, by path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .compare import Array, is_array


def placed(tree: Any, path: str, at: str, value: Array) -> Any:
    """The tree that lies at `path`, with what lies at `at` (`input 0[1].mask`) replaced; as it is where it has no such path."""
    if path == at:
        return value
    if type(tree) in (tuple, list):
        return type(tree)(placed(x, f"{path}[{i}]", at, value) for i, x in enumerate(tree))
    return {k: placed(v, f"{path}.{k}", at, value) for k, v in tree.items()} if isinstance(tree, dict) else tree


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """The tree with what `change` makes of each of its arrays."""
    if is_array(tree):
        return change(tree)
    if type(tree) in (tuple, list):
        return type(tree)(mapped(x, change) for x in tree)
    return {k: mapped(v, change) for k, v in tree.items()} if isinstance(tree, dict) else tree
