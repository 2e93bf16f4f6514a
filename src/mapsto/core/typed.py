"""Type hints of a part's target, and values checked against them; every error says the path and what is allowed."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import sys
import types
import typing
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from .errors import SpecError, nearest
from .kinds import Kind

OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
"""pydantic's names of the errors of a number that has the right type and cannot be all the same."""

EMPTY: Any = inspect.Parameter.empty


def hints_of(target: Any) -> dict[str, Any]:
    """The type hints of a call's parameters; one that cannot be evaluated is left out and the others still count."""
    function = target.func if isinstance(target, functools.partial) else target
    names: dict[str, Any] | None = None
    if inspect.isclass(function):
        if function.__init__ is object.__init__:  # such as a NamedTuple, whose generated __new__ has no globals of its own
            names, function = vars(sys.modules[function.__module__]), function.__new__
        else:
            function = function.__init__
    elif not inspect.isroutine(function):
        function = type(function).__call__
    function = inspect.unwrap(function)
    names = getattr(function, "__globals__", {}) if names is None else names
    found: dict[str, Any] = {}
    for name, note in getattr(function, "__annotations__", {}).items():
        alone: Any = types.SimpleNamespace(__annotations__={name: note})
        try:
            found |= typing.get_type_hints(alone, names, include_extras=True)
        except (NameError, TypeError, AttributeError, SyntaxError):  # such as a name imported for type checkers only
            continue
    return found


def kind_of_hint(hint: Any) -> Kind | None:
    """The kind in `Annotated[..., kind]`, also within a union or a container."""
    own = (m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Kind))
    inner = (kind_of_hint(member) for member in typing.get_args(hint))
    return next(own, None) or next((kind for kind in inner if kind is not None), None)


def takes_text(hint: Any) -> bool:
    """Whether a string is this parameter's own value, so that it does not name a part."""
    if typing.get_origin(hint) is typing.Literal:
        return True
    if inspect.isclass(hint) and not typing.get_args(hint):
        return issubclass(hint, (str, bytes, PurePath, enum.Enum))
    members = [m for m in typing.get_args(hint) if m is not type(None) and m is not Ellipsis]
    return bool(members) and all(takes_text(m) for m in members)


def takes_class(hint: Any) -> bool:
    """Whether the parameter wants a class itself, as `type[...]` says."""
    return hint is type or typing.get_origin(hint) is type or any(takes_class(m) for m in typing.get_args(hint))


def validated(value: Any, hint: Any, path: str) -> Any:
    """The value as its hint wants it (a str as a Path, a tuple as a list, ...). Raises SpecError where it does not fit.

    A type that pydantic cannot describe is the target's own to check.
    """
    if hint is EMPTY or hint is Any:
        return value
    adapter = _adapter(hint)
    if adapter is None:
        return value
    if holds_nan(value):
        raise SpecError(f"{path}: {shortened(value)} is not a number, and {format_type(hint)} is wanted")
    try:
        converted = adapter.validate_python(value)
    except ValidationError as error:
        raise SpecError(f"{path}: {_explain(value, hint, error)}") from None
    except PydanticUserError:  # a model with a field of a type that is not defined
        return value
    if holds_nan(converted):  # a text such as "nan", which a float may be read from
        raise SpecError(f"{path}: {shortened(value)} is not a number, and {format_type(hint)} is wanted")
    if isinstance(value, bool) and type(converted) in (int, float):
        raise SpecError(f"{path}: {value!r} is a bool, and {format_type(hint)} is wanted")
    if isinstance(value, float) and type(converted) is int:
        raise SpecError(f"{path}: {value!r} is a float, and {format_type(hint)} is wanted: write {converted}")
    return value if isinstance(converted, Iterator) else converted


def holds_nan(value: Any) -> bool:
    """Whether a number, or one in a list of numbers, is not a number."""
    return any(holds_nan(v) for v in value) if type(value) in (list, tuple) else isinstance(value, float) and value != value


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """What validates a hint; None where pydantic cannot describe it."""
    try:
        return _cached_adapter(hint)
    except TypeError:  # an unhashable hint, such as Annotated[int, [1]]
        return _cached_adapter.__wrapped__(hint)


@functools.lru_cache(maxsize=1024)
def _cached_adapter(hint: Any) -> TypeAdapter[Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic's remark that it lets any value of an odd type pass, which is meant
        for config in (ConfigDict(arbitrary_types_allowed=True), None):  # a model has its own configuration
            try:
                return TypeAdapter(hint, config=config)
            except Exception:  # noqa: BLE001, S112  # whatever it makes of a type that it cannot describe
                continue
    return None


def _explain(value: Any, hint: Any, error: ValidationError) -> str:
    if choices := choices_of(hint):
        return f"{value!r} is not a choice; {nearest(str(value), choices)}"
    if any(found["type"] in OUT_OF_RANGE for found in error.errors()):
        return f"{shortened(value)} is out of range: {format_type(hint)} is wanted"
    first = error.errors()[0]
    inside = ".".join(str(step) for step in first["loc"] if not isinstance(step, str) or step.isidentifier())
    where = f" (at {inside})" if inside and isinstance(value, (list, tuple, dict)) else ""
    return f"{shortened(value)} is a {type(value).__name__}, and {format_type(hint)} is wanted{where}: {first['msg'].lower()}"


def choices_of(hint: Any) -> list[str]:
    """What a Literal or an Enum allows, also where it may be None; empty for any other hint."""
    if typing.get_origin(hint) is typing.Literal:
        return [str(a) for a in typing.get_args(hint)]
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return [str(member.value) for member in hint]
    members = [m for m in typing.get_args(hint) if m is not type(None)]
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [c for m in members for c in choices_of(m)] if union and all(choices_of(m) for m in members) else []


def format_type(hint: Any) -> str:
    """A type hint as error sentences say it, such as `int | None` or `finite float > 0`."""
    if hint is EMPTY:
        return "a value"
    if typing.get_origin(hint) is typing.Annotated:
        base, *more = typing.get_args(hint)
        finite, bounds = _bounds(more)
        return " ".join([*(["finite"] if finite else []), format_type(base), *([" and ".join(bounds)] if bounds else [])])
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and ("Annotated" in str(hint) or "Literal" in str(hint)):
        return " | ".join("None" if member is type(None) else format_type(member) for member in typing.get_args(hint))
    if "Annotated" in str(hint) and (inner := typing.get_args(hint)):
        return f"{getattr(typing.get_origin(hint), '__name__', hint)}[{', '.join(map(format_type, inner))}]"
    return hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _bounds(metadata: Iterable[Any]) -> tuple[bool, list[str]]:
    """Whether pydantic's constraints want a finite number, and the bounds that they set, in words."""
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    found = [constraint for item in metadata for constraint in getattr(item, "metadata", (item,))]
    finite = any(getattr(constraint, "allow_inf_nan", True) is False for constraint in found)
    return finite, [f"{words[key]} {value}" for c in found for key in words if (value := getattr(c, key, None)) is not None]


def shortened(value: Any, width: int = 80) -> str:
    """The repr of a value in one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


# -- the fields of a frozen dataclass ------------------------------------------------------------------------------------
def put(value: Any, name: str, new: Any) -> None:
    """Set a field of a frozen dataclass while it is being made."""
    object.__setattr__(value, name, new)


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
