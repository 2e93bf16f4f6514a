"""Doors from Python: what is given to a constructor is fitted to its hints, as what a spec states is."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import numpy as np

from ..core.errors import DataError, SpecError
from ..core.registry import snake
from ..core.typed import hints_of, validated

P = ParamSpec("P")


def typed(init: Callable[P, None]) -> Callable[P, None]:
    """An `__init__` that takes texts, numbers and truth values as its hints say: `shuffle="maybe"` is an error, and not true.

    Arrays, objects and containers are its own to look at. Raises DataError naming the argument and what is allowed.
    """
    signature = inspect.signature(init)
    hints = functools.cache(lambda: hints_of(init))
    who = snake(init.__qualname__.rpartition(".")[0].rpartition(".")[2])

    @functools.wraps(init)
    def fitting(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return init(*args, **kwargs)  # which says what does not fit
        for name, value in bound.arguments.items():
            if isinstance(value, np.generic):
                value = value.item()
            if type(value) in (str, int, float, bool) and name in hints():
                try:
                    bound.arguments[name] = validated(value, hints()[name], f"{who}.{name}")
                except SpecError as error:
                    raise DataError(str(error)) from None
        return init(*bound.args, **bound.kwargs)

    return fitting


def whole(value: Any, what: str) -> int:
    """A whole number. Raises DataError for what is none."""
    try:
        return operator.index(value)
    except TypeError:
        raise DataError(f"{what}: {value!r} is a {type(value).__name__}, and a whole number is wanted") from None


def listed(fields: Mapping[str, str] | Sequence[str] | str | None) -> Any:
    """What says which fields to keep: a text is the name of one."""
    return (fields,) if isinstance(fields, str) else fields
