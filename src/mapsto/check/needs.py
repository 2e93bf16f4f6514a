"""What a law asks of its wing's driver, read from the law's own code."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from ..core.laws import Law
from ..core.protocols import attributes, methods


def needs(law: Law) -> list[str]:
    """The methods and attributes of the driver's protocol that a law's check, or what it calls beside it, reads; in the
    protocol's order. Empty of a law that declares no driver.
    """
    if law.driver is None:
        return []
    room = law.check.__module__.rpartition(".")[0]
    read = {name for function in _reached(law.check, room) for name in _read(function)}
    return [name for name in (*methods(law.driver), *attributes(law.driver)) if name in read]


def _reached(check: Callable[..., Any], room: str) -> list[FunctionType]:
    """A function, and those of its package that it names, and so on."""
    found: dict[int, FunctionType] = {}
    waiting: list[Any] = [check]
    while waiting:
        function = inspect.unwrap(waiting.pop())
        if not inspect.isfunction(function) or id(function) in found or not f"{function.__module__}.".startswith(f"{room}."):
            continue
        found[id(function)] = function
        used = (function.__globals__.get(node.id) for node in ast.walk(_tree(function)) if isinstance(node, ast.Name))
        waiting += [value for value in used if inspect.isroutine(value)]
    return list(found.values())


def _read(function: FunctionType) -> Iterator[str]:
    """The attributes of `driver` and `trial.driver` in a function's code."""
    for node in ast.walk(_tree(function)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("driver", "trial.driver"):
            yield node.attr


def _tree(function: FunctionType) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))
