"""The fields of a frozen dataclass, fitted to what they may hold; every error says the path and what is allowed."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import SpecError, nearest
from .typed import shortened, validated
from .values import Frozen, Part, as_part


def put(value: Any, name: str, new: Any) -> None:
    """Set a field of a frozen dataclass while it is being made."""
    object.__setattr__(value, name, new)


def slot(value: Any, path: str, default: str | None = None) -> Any:
    """A part or a live object. Raises SpecError for plain data that is neither."""
    part = as_part(value, default)
    if isinstance(part, Frozen):
        raise SpecError(f"{path}: a mapping needs the key 'use', which names what is used; {shortened(value)} has none")
    if type(part) in (int, float, bool, tuple):
        raise SpecError(f"{path}: {shortened(value)} is a {type(value).__name__}, and a name, a part or an object is wanted")
    return part


def listed(value: Any, path: str, what: str) -> Iterable[Any]:
    """The items of a list. Raises SpecError for one value that stands where a list is wanted."""
    if value is None:
        return ()
    if isinstance(value, (str, Part, Mapping)) or not isinstance(value, Iterable):
        raise SpecError(f"{path}: a list is wanted, {what}; write [{shortened(value)}]")
    return value


def validate(value: Any, names: Iterable[str], *, least: Mapping[str, int], prefix: str = "") -> None:
    """Fit the named fields of a frozen dataclass to their types. least: the smallest number that a field may hold."""
    hints = typing.get_type_hints(type(value))
    for name in names:
        fitted = validated(getattr(value, name), hints[name], f"{prefix}{name}")
        put(value, name, fitted)
        if fitted is not None and name in least and fitted < least[name]:
            raise SpecError(f"{prefix}{name}: {fitted} is too small; the least is {least[name]}")


def from_mapping(cls: Any, data: Mapping[str, Any], prefix: str) -> Any:
    """A dataclass from a mapping of its fields. Raises SpecError for one that it lacks or does not know."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise SpecError(f"{prefix}{key}: unknown key; {nearest(str(key), fields)}")
    required = [n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in data]:
        raise SpecError(f"{prefix}{missing[0]}: missing; a {cls.__name__} needs {', '.join(required)}")
    return cls(**data)
