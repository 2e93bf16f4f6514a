"""The type of a field, settled once for all its records (see `batches` for its values in that type).

Numbers of Python, and nested lists of them as in JSON, become int64, bool or float32 arrays, or float64 where float32 could
not hold a value; arrays and tensors keep their types; records of differing shapes stay lists of arrays; anything else stays
a list of Python objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest
from ..core.native import wing_of_array

Shape = tuple[int, ...]
WHOLE = ("int", "wide", "long", "big")
"""Whole numbers that float32 holds, that float64 holds, that only int64 holds, and that not even int64 holds."""
REAL = ("float", "double")
DTYPES = {"bool": np.bool_, "none": np.float32, "float": np.float32, "double": np.float64}
LIST = "text"
"""The word, among types, for a field that stays a list of Python objects."""


@dataclass(frozen=True)
class Field:
    """What is known of a field.

    kind: `numbers` of Python, `array`, `tensor`, `object`, or `nothing` where all values are missing; element: of numbers
    one of WHOLE, REAL, bool and none (an empty list), else the dtype; shape: of each record, None where they differ; wing:
    of tensors, whose framework they are of.
    """

    kind: str
    element: Any = None
    shape: Shape | None = ()
    missing: bool = False
    wing: str = ""

    @property
    def dtype(self) -> Any:
        """The type of a batch, NumPy's or of tensors the framework's."""
        return np.dtype(DTYPES.get(self.element, np.int64)) if self.kind == "numbers" else self.element


OBJECT, NOTHING = Field("object"), Field("nothing", missing=True)


class Unfit(Exception):
    """Why a value does not fit its field."""


# -- one value -----------------------------------------------------------------------------------------------------------
def field_of_value(value: Any) -> Field:
    """The type and shape of a field as one value of it, of one record, shows them."""
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return OBJECT
    if wing := wing_of_array(value):
        return Field("tensor", value.dtype, tuple(value.shape), wing=wing)
    if isinstance(value, (np.ndarray, np.generic)) or type(value).__module__.startswith("PIL."):
        array = np.asarray(value)
        return OBJECT if array.dtype.kind in "OUSV" else Field("array", array.dtype.newbyteorder("="), array.shape)
    if isinstance(value, (bool, int, float)):
        return Field("numbers", _element(value))
    return _of_list(value) if isinstance(value, list) else OBJECT


def _of_list(value: list[Any]) -> Field:
    """A list of numbers, or of such lists of one shape; else an object."""
    merged: Field | None = None
    for item in value:
        found = field_of_value(item) if isinstance(item, (bool, int, float, list)) else OBJECT
        merged = found if merged is None else merge(merged, found)
        if merged.kind != "numbers" or merged.shape is None:
            return OBJECT
    if merged is None:
        return Field("numbers", "none", (0,))
    return replace(merged, shape=(len(value), *(merged.shape or ())))


def _element(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float):
        return "float" if fits_float32(value) else "double"
    if abs(value) <= 2**24:
        return "int"
    if not -(2**63) <= value < 2**63:
        return "big"
    return "long" if int(float(value)) != value else "int" if fits_float32(value) else "wide"


def fits_float32(value: float) -> bool:
    """Whether float32 holds a number but for rounding: it is in range, and exact where float32's steps are 1 and more."""
    size = abs(value)
    if size == 0 or size != size or size == float("inf"):
        return True
    if size >= 2**24:
        with np.errstate(over="ignore"):
            return bool(float(np.float32(value)) == value)
    return bool(size >= np.finfo(np.float32).tiny)


def overflows(raw: np.ndarray[Any, Any], cast: np.ndarray[Any, Any]) -> bool:
    """Whether finite numbers have become infinite in a floating-point type."""
    return bool(cast.dtype.kind == "f" and raw.dtype.kind in "iuf" and (np.isinf(cast) & np.isfinite(raw)).any())


# -- several values --------------------------------------------------------------------------------------------------------
def merge(one: Field, other: Field) -> Field:
    """The field of records of both. Raises Unfit where they have no type in common and yet both are numbers."""
    if one == other:
        return one
    missing = one.missing or other.missing
    if "nothing" in (one.kind, other.kind):
        return replace(other if one.kind == "nothing" else one, missing=missing)
    if one.kind != other.kind or one.kind == "object":
        return replace(OBJECT, missing=missing)
    shape = one.shape if one.shape == other.shape else None
    if one.kind == "numbers":
        element = _common(one.element, other.element)
        if element is None or (shape is None and () in (one.shape, other.shape)):  # a number, and a list in another record
            return replace(OBJECT, missing=missing)
        return Field("numbers", element, shape, missing)
    if one.element == other.element:
        return Field(one.kind, one.element, shape, missing, one.wing)
    if one.kind == "tensor" or np.dtype(one.element).kind != np.dtype(other.element).kind:
        raise Unfit(f"is {other.element} here, and {one.element} before")
    return Field(one.kind, np.promote_types(one.element, other.element), shape, missing)


def _common(one: str, other: str) -> str | None:
    """The element of both; None for truth values beside numbers."""
    if one == other or "none" in (one, other):
        return other if one == "none" else one
    if "bool" in (one, other):
        return None
    for kinds in (WHOLE, REAL):
        if one in kinds and other in kinds:
            return max(one, other, key=kinds.index)
    whole, real = (one, other) if one in WHOLE else (other, one)
    if whole in ("long", "big"):
        raise Unfit("holds a whole number beyond 2^53 among fractions, which no floating-point type keeps")
    return "double" if whole == "wide" else real


class Types:
    """What a person says of fields: types (field -> a NumPy type, or `text` for Python objects as they are) and missing
    (field -> the value that stands for a missing one). Raises DataError for a type that there is none of.
    """

    def __init__(self, who: str, types: Mapping[str, Any] | None = None, missing: Mapping[str, Any] | None = None) -> None:
        self.who, self.missing = who, dict(missing or {})
        self.said = {name: self._type(name, said) for name, said in (types or {}).items()}

    def _type(self, name: str, said: Any) -> Any:
        if said in (LIST, "list", "str", str, list):
            return LIST
        try:
            found = np.dtype(said)
        except TypeError:
            found = np.dtype(object)
        if found.kind not in "iufbM":
            raise DataError(
                f"{self.who}: types: {said!r}, for field {name!r}, is no type; write text for what is no number, or a type of "
                "NumPy such as int64, float32, float64, bool, datetime64[s]"
            )
        return found

    def check(self, names: Iterable[str]) -> None:
        """Raise DataError where a field is named that there is none of."""
        there = list(names)
        for what, said in (("types", self.said), ("missing", self.missing)):
            for name in said:
                if name not in there:
                    raise DataError(f"{self.who}: {what}: there is no field {name!r}; {nearest(name, there)}")


class Settling:
    """Fields as they are settled, a record after another. `place` says where the record stands, for errors."""

    def __init__(self, types: Types) -> None:
        self.types, self.fields = types, dict[str, Field]()
        self.lacking: dict[str, Callable[[], str]] = {}

    def see(self, name: str, value: Any, place: Callable[[], str]) -> None:
        """Take in one more value of a field, which widens what is known of its type and shape."""
        known = self.fields.get(name)
        if value is None:
            value = self.types.missing.get(name)
            if value is None:
                self.lacking.setdefault(name, place)
        if known is not None and known.kind == "object" and value is not None:
            return
        found = field_of_value(value)
        if found == known:
            return
        try:
            if found.element == "big" and name not in self.types.said:
                raise Unfit("holds a whole number beyond int64")
            self.fields[name] = found if known is None else merge(known, found)
        except Unfit as reason:
            if name not in self.types.said:
                raise DataError(f"{place()}: field {name!r} {reason}; {type_hint(name, 'text')}, or another type") from None
            self.fields[name] = replace(found, shape=known.shape if known and known.shape == found.shape else None)

    def done(self, asked: bool = True) -> dict[str, Field]:
        """The fields. asked: whether each was asked for by name; else numbers that lack some stay lists with None.

        Raises DataError naming the first record that lacks a whole number or truth value.
        """
        self.types.check(self.fields)
        for name, place in self.lacking.items():
            field, said = self.fields[name], self.types.said.get(name)
            if said == LIST or field.kind in ("object", "nothing") or field.shape != ():
                continue
            kind = said.kind if said is not None else field.dtype.kind if field.kind == "numbers" else "f"
            if kind in "iub" and (asked or said is not None):
                raise DataError(f"{place()}: {lacks(name, said if said is not None else field.dtype)}")
        return self.fields


def lacks(name: str, dtype: Any) -> str:
    """The end of an error sentence on a value that is missing and has no type to be missing in."""
    return (
        f"field {name!r} is {dtype} and lacks a value here: say what stands for it, missing: {{{name}: 0}}, or "
        f"types: {{{name}: float64}} to have NaN"
    )


def type_hint(name: str, kind: str) -> str:
    return f"say its type, types: {{{name}: {kind}}}"
