"""Spec values as plain data: what a file can hold, and by which name it refers to a class or function."""

from __future__ import annotations

import enum
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from .errors import SpecError, UnknownName
from .parts import imported
from .recipes import loaded_files
from .registry import reference_of, registry
from .typed import shortened
from .values import PLAIN, Part, Reference


def plain(value: Any, path: str, kind: str | None, live: bool) -> Any:
    """Plain data of a spec value. Raises SpecError where it holds a live object, unless `live` asks to describe it."""
    if isinstance(value, Part):
        named = value.use if isinstance(value.use, str) else _name(value.use, kind)
        if named is None:
            return _describe(value.use if not value.args else value, path, live)
        return {"use": named, **{k: plain(v, f"{path}.{k}", _kind(k), live) for k, v in value.args.items()}}
    if isinstance(value, Mapping):
        return {k if type(k) in PLAIN else str(k): plain(v, f"{path}.{k}", _kind(k) or kind, live) for k, v in value.items()}
    if type(value) in (tuple, list):
        return [plain(v, f"{path}.{i}", kind, live) for i, v in enumerate(value)]
    if type(value) in PLAIN:
        return value
    if isinstance(value, Reference):
        return {"reference": value.reference}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, enum.Enum) and type(value.value) in PLAIN:
        return value.value
    if inspect.isclass(value) or inspect.isroutine(value):
        reference = _reference(value)
        return {"reference": reference} if reference is not None else _describe(value, path, live)
    return _describe(value, path, live)


def _kind(parameter: Any) -> str | None:
    kind = registry.kind_of_parameter(str(parameter))
    return kind.name if kind is not None else None


def _name(target: Callable[..., Any], kind: str | None) -> str | None:
    """The registered name of a target, else its reference; None where another process could find neither."""
    return (registry.name_of(kind, target) if kind is not None else None) or _reference(target)


def _reference(target: Any) -> str | None:
    reference = reference_of(target)
    if reference.startswith("__main__:") and "__main__" not in loaded_files():
        return None
    try:
        return reference if imported(reference) is target else None
    except (ImportError, UnknownName):
        return None


def _describe(value: Any, path: str, live: bool) -> dict[str, str]:
    if live:
        return {"live": re.sub(r" at 0x[0-9a-fA-F]+", "", shortened(value, 2000))}
    raise SpecError(
        f"{path}: a live object ({shortened(value, 60)}) cannot be written to a file; name what makes it: "
        "use('registered-name', ...) or use('package.module:factory', ...)"
    )


def live_objects(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, description) of each live object that plain data describes."""
    if isinstance(data, Mapping):
        if set(data) == {"live"} and isinstance(data["live"], str):
            yield path, shortened(data["live"], 60)
        for k, v in data.items():
            yield from live_objects(v, f"{path}.{k}" if path else str(k))
    elif type(data) in (list, tuple):
        for i, v in enumerate(data):
            yield from live_objects(v, f"{path}.{i}")


def digest(data: Any) -> str:
    """A short hash of plain data, whatever the order of its keys."""
    text = json.dumps(_pairs(data), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pairs(data: Any) -> Any:
    """Mappings as sorted pairs, so that keys of several types have one order."""
    if isinstance(data, Mapping):
        return {"mapping": sorted(([repr(k), _pairs(v)] for k, v in data.items()), key=lambda pair: pair[0])}
    return [_pairs(v) for v in data] if isinstance(data, (list, tuple)) else data
