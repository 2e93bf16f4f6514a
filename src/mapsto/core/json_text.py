"""JSON as every reader takes it: what is written is strict, and what is read may be any bytes.

JSON has no word for a number that is not finite. It is written as one of the strings of `NOT_FINITE` (as protocol buffers
write it), which `float` of Python and `Number` of JavaScript read back; so not-a-number stays told from what is missing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from .shown import OBEYED
from .typed import shortened

DEEPEST = 200
"""Levels within each other that are read: far more than anything writes, and what every reader here can walk down."""


def not_finite(value: float) -> str:
    """The word for a number that is not finite: `NaN`, `Infinity` or `-Infinity`."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def write_json(
    data: Any,
    *,
    indent: int | None = None,
    default: Callable[[Any], Any] = str,
    ensure_ascii: bool = True,
) -> str:
    """Strict JSON of plain data; `default` makes plain data of what is none.

    Characters that a terminal obeys, and lone surrogates, are escapes in any case.
    """
    made = {"indent": indent, "ensure_ascii": ensure_ascii}
    try:
        text = json.dumps(data, allow_nan=False, default=default, **made)  # type: ignore[arg-type]
    except ValueError:  # a number that is not finite, somewhere
        text = json.dumps(_strict(data, default), allow_nan=False, **made)  # type: ignore[arg-type]
    return text if ensure_ascii else OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _strict(value: Any, default: Callable[[Any], Any]) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else not_finite(value)
    if isinstance(value, (str, int, type(None))):
        return value
    if isinstance(value, Mapping):
        return {_key(k): _strict(v, default) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(v, default) for v in value]
    return _strict(default(value), default)


def _key(key: Any) -> Any:
    return not_finite(key) if isinstance(key, float) and not math.isfinite(key) else key


def read_json(data: bytes | str) -> Any:
    """Plain data from JSON (bare NaN and Infinity, which earlier versions wrote, are read too).

    Raises ValueError with a reason of one line: bytes that are not UTF-8 or no JSON, a key that stands twice in one object,
    a number of too many digits, or more than `DEEPEST` levels.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        if text.count("[") + text.count("{") > DEEPEST:
            _bounded(text)
        return json.loads(text, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None
    except ValueError as error:
        if "integer string conversion" in str(error):  # of more digits than Python converts
            raise ValueError("it holds a number of too many digits") from None
        raise


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shortened(twice, 60)} stands twice")
    return found


def _bounded(text: str) -> None:
    """Raises ValueError where brackets outside of strings stand too deep within each other."""
    depth = 0
    for found in _BRACKETS.finditer(text):
        sign = found[0]
        depth += 1 if sign in "[{" else -1 if sign in "]}" else 0
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', re.S)
"""A string as a whole, or a bracket."""
