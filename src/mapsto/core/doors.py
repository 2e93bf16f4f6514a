"""Doors from Python: what is given to a constructor is fitted to its hints, as what a spec states is."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, ParamSpec

from .errors import MapstoError, SpecError
from .registry import snake
from .typed import hints_of, validated

P = ParamSpec("P")


def fitting(raises: type[MapstoError]) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Decorates an `__init__` that takes texts, numbers and truth values as its hints say: `shuffle="maybe"` is an error, and
    not true. Arrays, objects and containers are its own to look at. raises: the kind of error, which names the argument and
    what is allowed.
    """

    def decorate(init: Callable[P, None]) -> Callable[P, None]:
        signature = inspect.signature(init)
        hints = functools.cache(lambda: hints_of(init))
        who = snake(init.__qualname__.rpartition(".")[0].rpartition(".")[2])

        @functools.wraps(init)
        def fitted(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return init(*args, **kwargs)  # which says what does not fit
            for name, value in bound.arguments.items():
                value = _plain(value)
                if type(value) in (str, int, float, bool) and name in hints():
                    try:
                        bound.arguments[name] = validated(value, hints()[name], f"{who}.{name}")
                    except SpecError as error:
                        raise raises(str(error)) from None
            return init(*bound.args, **bound.kwargs)

        return fitted

    return decorate


def _plain(value: Any) -> Any:
    numpy = sys.modules.get("numpy")
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


typed = fitting(SpecError)
"""For whatever is a part of a spec and no data."""
