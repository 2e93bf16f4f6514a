"""Doors from Python to data: constructors fitted to their hints, whole numbers, and the fields to keep."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.doors import fitting
from ..core.errors import DataError

typed = fitting(DataError)
"""As `mapsto.core.doors.typed`, for sources, readers and transforms."""


def whole(value: Any, what: str) -> int:
    """A whole number. Raises DataError for what is none."""
    try:
        return operator.index(value)
    except TypeError:
        raise DataError(f"{what}: {value!r} is a {type(value).__name__}, and a whole number is wanted") from None


def listed(fields: Mapping[str, str] | Sequence[str] | str | None) -> Any:
    """What says which fields to keep: a text is the name of one."""
    return (fields,) if isinstance(fields, str) else fields
