"""Overrides by path: `optimizer.lr=1e-3`, `middleware.clip_norm.max_norm=2`, `middleware+=ema`, `schedule=null`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import SpecError, nearest
from .values import PLAIN, Frozen, Part, freeze, name_of
from .yaml_text import read_yaml


def overridden(value: Frozen, changes: tuple[str, ...]) -> Frozen:
    """A changed copy of nested spec values; what is not changed is shared.

    A step of a path is a key, an index or, in a list, a part's name; values are YAML. `+=` appends to a list, null removes
    an item of a list. Raises SpecError naming the path, what there is and the nearest name.
    """
    for change in changes:
        path, sign, text = change.partition("=")
        append, path = path.endswith("+"), path.removesuffix("+").strip()
        if not sign or not path:
            raise SpecError(f"{change!r} is not an override: write path=value, such as optimizer.lr=1e-3")
        try:
            new = freeze(read_yaml(text))
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from None
        value = _changed(value, path.split("."), new, path, append)
    return value


def _changed(value: Any, steps: list[str], new: Any, path: str, append: bool) -> Any:
    """`value` with `new` at the end of `steps`, the last ones of `path`."""
    if not steps:
        return _appended(value, new, path) if append else new
    step, *rest = steps
    here = ".".join(path.split(".")[: -len(steps)])
    if isinstance(value, str):  # a part that was given by its bare name
        value = Part(value)
    if isinstance(value, Part):
        if step == "use" and not rest and not append:
            return Part(new, value.args)
        return Part(value.use, {**value.args, **_item(value.args, step, rest, new, path, append)})
    if isinstance(value, Frozen):
        return Frozen({**value, **_item(value, step, rest, new, path, append)})
    if type(value) is tuple:
        i = _index(value, step, here)
        changed = _changed(value[i], rest, new, path, append)
        return (*value[:i], *(() if changed is None else (changed,)), *value[i + 1 :])
    raise SpecError(f"{path}: {here!r} is a {type(value).__name__}, which has no {step!r}")


def _item(items: Mapping[Any, Any], step: str, rest: list[str], new: Any, path: str, append: bool) -> dict[Any, Any]:
    key = next((k for k in items if str(k) == step), step)
    if rest and items.get(key) is None:
        known = [str(k) for k, v in items.items() if v is not None]
        where = path[: len(path) - len(".".join(rest)) - 1]
        unset = f"{where!r} is not set: set it first" if key in items else f"there is no {where!r}"
        raise SpecError(f"{path}: {unset}; {nearest(step, known)}")
    return {key: _changed(items.get(key), rest, new, path, append)}


def _appended(value: Any, new: Any, path: str) -> tuple[Any, ...]:
    if value is not None and type(value) is not tuple:
        raise SpecError(f"{path}: += appends to a list, and {path!r} is a {type(value).__name__}")
    return (*(value or ()), new)


def _index(items: tuple[Any, ...], step: str, path: str) -> int:
    if step.isdecimal() and int(step) < len(items):
        return int(step)
    names = [_called(item) for item in items]
    found = [i for i, name in enumerate(names) if name == step]
    if not found:
        there = nearest(step, [name for name in names if name]) if any(names) else f"write an index below {len(items)}"
        raise SpecError(f"{path}: no {step!r} in this list; {there}")
    if len(found) > 1:
        raise SpecError(f"{path}: {step!r} stands {len(found)} times in this list; write its index, one of {found}")
    return found[0]


def _called(item: Any) -> str:
    """The name by which a path finds an item of a list; numbers and containers have none."""
    if isinstance(item, str):
        return item
    return "" if type(item) in PLAIN or isinstance(item, (tuple, Frozen)) else name_of(item)
