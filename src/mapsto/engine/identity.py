"""Whose checkpoint: a run goes on only from one of the same trajectory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..core.json_text import write_json
from ..core.spec import Spec
from .fingerprint import is_path

FREE = ("workers", "prefetch")
_ABSENT = object()


def identity_of(spec: Spec) -> dict[str, Any]:
    """What decides the trajectory of a run, as JSON data: of the readers those it trains and evaluates with, and of them
    not how many processes read."""
    found: dict[str, Any] = json.loads(write_json(spec.identity()))
    readers = {name: found["data"][name] for name in ("train", *spec.validation_sets) if name in found["data"]}
    found["data"] = {name: {k: v for k, v in reader.items() if k not in FREE} for name, reader in readers.items()}
    return found


def differences(there: Any, here: Any) -> list[str]:
    """One line a path that differs between two identities: `optimizer.lr: 0.001 there, 0.01 here`."""
    return [_line(*found) for found in _walk(there, here, "")]


def moved(there: Any, here: Any) -> tuple[list[str], list[str]]:
    """(lines that differ, paths of the spec that name data at another place): whether those are the same data, their
    fingerprint tells."""
    lines, places = [], []
    there = json.loads(write_json(there))  # earlier versions wrote bare words for numbers that are not finite
    for path, before, now in _walk(there, here, ""):
        if path.startswith("data.") and (before is _ABSENT or isinstance(before, str)) and is_path(now):  # absent: its default
            places.append(path)
        else:
            lines.append(_line(path, before, now))
    return lines, places


def _line(path: str, there: Any, here: Any) -> str:
    return f"{path}: {_said(there)} there, {_said(here)} here"


def _walk(there: Any, here: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    there, here = _long(there, here), _long(here, there)
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(k for k in here if k not in there)]:
            yield from _walk(there.get(key, _ABSENT), here.get(key, _ABSENT), f"{path}.{key}" if path else key)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for index, (a, b) in enumerate(zip(there, here, strict=True)):
            yield from _walk(a, b, f"{path}.{index}")
    elif there != here or type(there) is not type(here):
        yield path, there, here


def _long(value: Any, other: Any) -> Any:
    """A part that is written by its bare name, in the long form where the other one is."""
    return {"use": value} if isinstance(value, str) and isinstance(other, dict) and "use" in other else value


def _said(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
