"""Protocols as data: what their methods give, and what of a value is not what a hint says."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import numbers
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .typed import format_type


def is_protocol(hint: Any) -> bool:
    """Whether a hint is a protocol, such as that of what a driver's `build` gives."""
    return inspect.isclass(hint) and bool(getattr(hint, "_is_protocol", False))


@functools.cache
def methods(protocol: Any) -> dict[str, Any]:
    """Each method of a protocol, and what it gives."""
    own = {n: f for base in reversed(protocol.__mro__) if is_protocol(base) for n, f in vars(base).items() if n[0] != "_"}
    return {n: typing.get_type_hints(f).get("return", Any) for n, f in own.items() if inspect.isfunction(f)}


@functools.cache
def attributes(protocol: Any) -> dict[str, Any]:
    """Each attribute of a protocol, and what it is."""
    own = {n: p.fget for n, p in vars(protocol).items() if isinstance(p, property)}
    given = {n: typing.get_type_hints(f).get("return", Any) for n, f in own.items() if f is not None}
    return {**typing.get_type_hints(protocol), **given}


@functools.cache
def _fields(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def misfit(value: Any, hint: Any) -> str | None:
    """What does not fit a hint, such as `None, and dict[str, float] is wanted`; None where all of it does.

    Looks into tuples, lists, dicts and dataclasses. An array is one of NumPy, a number of it, or one that keeps its values in a
    wider dtype beside the name of its own.
    """
    return _misfit(value, hint, "")


def _misfit(value: Any, hint: Any, at: str) -> str | None:
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is Any or hint is type(None):  # what is done for its effect may give anything
        return None
    if origin in (typing.Union, types.UnionType):
        members = [m for m in inner if m is not type(None)]
        if value is None and len(members) < len(inner):
            return None
        return (
            _misfit(value, members[0], at)
            if len(members) == 1
            else _unless(any(_misfit(value, m, at) is None for m in members), value, hint, at)
        )
    if origin is typing.Literal:
        return _unless(value in inner, value, hint, at)
    if not _is_a(value, origin):
        return _unless(False, value, hint, at)
    return next((wrong for path, item, of in _inside(value, origin, inner) if (wrong := _misfit(item, of, at + path))), None)


def _unless(fits: bool, value: Any, hint: Any, at: str) -> str | None:
    what = "None" if value is None else f"a {type(value).__name__}"
    return None if fits else f"{what}{f' at {at}' if at else ''}, and {_say(hint)} is wanted"


def _say(hint: Any) -> str:
    return hint.__name__ if is_protocol(hint) else format_type(hint)


def _is_a(value: Any, cls: Any) -> bool:
    wanted: Any = cls  # whose type the tests below narrow
    if not inspect.isclass(cls):
        return True
    if is_protocol(cls):
        return value is not None and any(hasattr(value, name) for name in (*methods(wanted), *attributes(wanted)))
    if cls is bool:
        return type(value).__name__ in ("bool", "bool_")  # NumPy's too
    if cls in (int, float):
        return isinstance(value, numbers.Integral if cls is int else numbers.Real) and not isinstance(value, bool)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and cls is numpy.ndarray:
        return isinstance(getattr(value, "values", value), (numpy.ndarray, numpy.generic))
    return isinstance(value, cls) and not (cls is not str and issubclass(cls, Sequence) and isinstance(value, str))


def _inside(value: Any, cls: Any, inner: tuple[Any, ...]) -> Iterable[tuple[str, Any, Any]]:
    """Path, item and hint of what a value holds."""
    fields = _fields(cls) if hasattr(cls, "__dataclass_fields__") else {}
    if fields:
        return [(f".{name}", getattr(value, name), of) for name, of in fields.items()]
    if not inner or not inspect.isclass(cls):
        return []
    if cls is tuple and inner[-1] is not Ellipsis:
        return [(f"[{i}]", v, of) for i, (v, of) in enumerate(zip(value, inner, strict=False))]
    if issubclass(cls, Mapping):
        return [(f"[{k!r}]", v, inner[1]) for k, v in value.items()]
    if issubclass(cls, Sequence):
        return [(f"[{i}]", v, inner[0]) for i, v in enumerate(value)]
    return []
