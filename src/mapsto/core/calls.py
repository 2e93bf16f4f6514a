"""Calling what an author states, such as a reference, with the arguments that it names."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def called(reference: Callable[..., Any], given: tuple[Any, ...], **named: Any) -> Any:
    """The reference of the inputs, with those of `named` (options of the mapping, `state`, `rng`) whose names it takes.

    A reference that takes **options is given all of them.
    """
    try:
        parameters = inspect.signature(reference).parameters.values()
    except (TypeError, ValueError):
        return reference(*given)
    all_of_them = any(p.kind is p.VAR_KEYWORD for p in parameters)
    takes = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    positions = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][: len(given)]
    chosen = {n: v for n, v in named.items() if (n in takes or all_of_them) and n not in positions}
    with np.errstate(all="ignore"):
        return reference(*given, **chosen)


def fresh(args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for one more instance: what an instance may change (a module, a tensor, a list) is its own copy.

    What cannot be copied is given as it is.
    """
    made = {}
    for name, value in args.items():
        try:
            made[name] = copy.deepcopy(value)
        except Exception:  # noqa: BLE001  # locks, files and their like say so in many ways
            made[name] = value
    return made


def maker_of(target: Any) -> Any:
    """The class or function of a target, whose file and options are its own; of an instance its class."""
    return target if inspect.isclass(target) or inspect.isroutine(target) else type(target)


def defaults_of(target: Any, args: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a mapping as it was built: what was given, and the defaults of the rest."""
    try:
        known = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return dict(args)
    return {**{n: p.default for n, p in known.items() if p.default is not p.empty}, **args}
