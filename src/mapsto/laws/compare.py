"""Comparing trees of arrays within a law's tolerance; every comparison is counted, every difference has a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from ..core.laws import Trial

Array = np.ndarray[Any, Any]

RTOL, ATOL = 1e-9, 1e-12
"""T1: float64."""
FACTOR = {"float64": 2.0, "float32": 2.0, "float16": 3.0, "bfloat16": 3.0}
"""T2: how many times the framework's own error a candidate may have (the factors of `torch._dynamo.utils.same`)."""
EPS = {**{name: float(np.finfo(name).eps) for name in ("float64", "float32", "float16")}, "bfloat16": 2.0**-7}
"""The distance from 1 to the next number."""
DEPTH = 8
"""How deep objects within objects are looked into: they may hold one another."""
ROUNDINGS = 64
"""How many of them a weight and its product may differ by, where it was added up in another order."""
MAX = {**{name: float(np.finfo(name).max) for name in ("float64", "float32", "float16")}, "bfloat16": (2 - 2.0**-7) * 2.0**127}
"""The largest number."""


@dataclass(frozen=True, eq=False)
class Exact:
    """An array of a dtype that NumPy has not (bfloat16, float8): its values in a wider one, and the name of its own."""

    values: Array
    dtype: str


def is_array(value: Any) -> bool:
    """Whether a leaf is compared element by element."""
    return isinstance(value, (np.ndarray, np.number, Exact))  # what 0-dimensional arrays become in a sum is a number


def values(array: Any) -> Array:
    """The numbers of an array, exactly."""
    return array.values if isinstance(array, Exact) else np.asarray(array)


def dtype_of(array: Any) -> str:
    """The name of an array's dtype."""
    return array.dtype if isinstance(array, Exact) else str(array.dtype)


def cast(array: Array, dtype: str) -> Array:
    """The numbers of an array rounded to a dtype (to the nearest, ties to even), in float64.

    bfloat16, which NumPy has not, is the upper half of a float32.
    """
    with np.errstate(over="ignore"):
        if dtype != "bfloat16":
            return np.asarray(array.astype(dtype), dtype=np.float64)
        bits = array.astype(np.float32).view(np.uint32)
        upper = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return np.asarray(upper.view(np.float32), dtype=np.float64)


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dicts, lists, tuples and dataclasses by path, and of objects that have no equality of their own.

    Two of such objects are never equal, and their text holds their address: what stands in their attributes is compared. A
    function has nothing to compare, so there is no leaf of it.
    """
    if isinstance(tree, Mapping):
        return {k: v for key, value in tree.items() for k, v in leaves(value, f"{path}.{key}" if path else str(key)).items()}
    if isinstance(tree, (list, tuple)):
        return {k: v for i, value in enumerate(tree) for k, v in leaves(value, f"{path}[{i}]").items()}
    if isinstance(tree, (FunctionType, MethodType, partial)):
        return {}
    if path.count(".") < DEPTH and (held := _held(tree)) is not None:
        return leaves(held, path or "output")
    return {path or "output": tree}


def _held(value: Any) -> dict[str, Any] | None:
    """The attributes of a dataclass, or of an object of a class without equality; None for what is a leaf."""
    if isinstance(value, (type, Exact)) or is_array(value):
        return None
    plain: Any = object.__eq__
    if hasattr(value, "__dict__") and (is_dataclass(value) or type(value).__eq__ is plain):
        return {n: v for n, v in vars(value).items() if v is not value}
    return None


def same(
    trial: Trial, what: str, got: Any, want: Any, *, tolerance: str = "T0", cause: str | None = None, script: str | None = None
) -> None:
    """Demand that two trees are the same: equal paths, types, dtypes, shapes and NaN patterns, values within T0 or T1."""
    mine, theirs = leaves(got), leaves(want)
    if mine.keys() != theirs.keys():
        missing, extra = sorted(theirs.keys() - mine.keys()), sorted(mine.keys() - theirs.keys())
        trial.fail(
            f"{what}: missing {missing}, unexpected {extra}", first={"tensor": (missing + extra)[0]}, cause=cause, script=script
        )
    for path, value in theirs.items():
        _same_leaf(trial, what, path, mine[path], value, tolerance, cause, script)
    trial.exercised(what, telling(theirs))


def telling(tree: Any) -> int:
    """How many leaves of a tree say anything when another tree equals it, which is what laws count as compared."""
    return sum(_tells(leaf) for leaf in leaves(tree).values())


def _tells(leaf: Any) -> bool:
    """Whether an equality with a leaf says anything: not where it is None, has no element, or is not a number throughout."""
    if not is_array(leaf):
        return leaf is not None
    return bool(values(leaf).size) and not (values(leaf).dtype.kind in "fc" and bool(np.isnan(values(leaf)).all()))


def _same_leaf(
    trial: Trial, what: str, path: str, got: Any, want: Any, tolerance: str, cause: str | None, script: str | None
) -> None:
    if not is_array(want) or not is_array(got):
        if is_array(want) != is_array(got) or got != want:
            trial.fail(
                f"{what}: {path} is {got!r:.80}, and {want!r:.80} is due", first={"tensor": path}, cause=cause, script=script
            )
        return
    if not _alike(got, want):
        said = f"{what}: {path} is {_form(got)}, and {_form(want)} is due"
        cast = "a cast" if dtype_of(got) != dtype_of(want) else None
        trial.fail(said, first={"tensor": path}, cause=cause or cast, script=script)
    at = first_difference(got, want, tolerance, ROUNDINGS * EPS["float32"] if trial.single else RTOL)
    if at is not None:
        trial.fail(
            f"{what}: {path} differs at {at}: {_item(got, at)} against {_item(want, at)}",
            measured=max_error(got, want),
            allowed=0.0 if tolerance == "T0" else f"{ATOL} + {RTOL} |x|",
            first={"tensor": path, "index": at},
            cause=cause or ratio_cause(got, want),
            script=script,
        )


def differs(got: Any, want: Any) -> bool:
    """Whether two trees differ anywhere (for controls)."""
    mine, theirs = leaves(got), leaves(want)
    if mine.keys() != theirs.keys():
        return True
    for path, value in theirs.items():
        other = mine[path]
        if not is_array(value) or not is_array(other):
            if is_array(value) != is_array(other) or value != other:
                return True
        elif not _alike(other, value) or first_difference(other, value, "T0") is not None:
            return True
    return False


def rounded(got: Any, want: Any) -> bool:
    """Whether two trees differ by no more than roundings in float32: in each array 64 of its largest number."""
    mine, theirs = leaves(got), leaves(want)
    return mine.keys() == theirs.keys() and all(_rounded_alike(mine[path], value) for path, value in theirs.items())


def _rounded_alike(got: Any, want: Any) -> bool:
    if not is_array(got) or not is_array(want) or values(want).dtype != np.float32:
        return not differs(got, want)
    largest = float(np.abs(values(want)).max(initial=0.0))
    return _alike(got, want) and (not largest or max_error(got, want) <= ROUNDINGS * EPS["float32"] * largest)


def _alike(got: Any, want: Any) -> bool:
    return dtype_of(got) == dtype_of(want) and values(got).shape == values(want).shape


def first_difference(got: Any, want: Any, tolerance: str, relative: float = RTOL) -> list[int] | None:
    """The index of the first element that is out of tolerance, or None. Zeros of either sign are equal, NaNs are too.

    relative: what T1 allows of the largest number.
    """
    a, b = values(got), values(want)
    equal = a == b
    if a.dtype.kind in "fc":
        with np.errstate(invalid="ignore", over="ignore"):
            equal = equal | (np.isnan(a) & np.isnan(b))
            if tolerance != "T0" and b.size:
                x, y = (a, b) if a.dtype.kind == "c" else (a.astype(np.float64), b.astype(np.float64))
                equal = equal | (np.abs(x - y) <= ATOL + relative * np.nan_to_num(np.abs(y)).max())
    if bool(np.all(equal)):
        return None
    return [int(i) for i in np.argwhere(~equal)[0]]


def max_error(got: Any, want: Any) -> float:
    """The largest absolute difference where both are finite."""
    error = _error(got, want)
    finite = error[np.isfinite(error)]
    return float(finite.max()) if finite.size else float("inf")


def worst(got: Any, want: Any) -> list[int]:
    """The index of the element that is furthest off."""
    error = np.nan_to_num(_error(got, want), nan=np.inf)
    return [int(i) for i in np.unravel_index(int(error.argmax()), error.shape)]


def _error(got: Any, want: Any) -> Array:
    a, b = (x if x.dtype.kind == "c" else x.astype(np.float64) for x in (values(got), values(want)))
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.abs(a - b))


def close_to_oracle(
    trial: Trial,
    what: str,
    candidate: Any,
    eager: Any,
    oracle: Any,
    *,
    factor: float | None = None,
    floor: float = 0.0,
    cause: str | None = None,
    script: str | None = None,
) -> None:
    """T2: the candidate's error against the float64 oracle is at most k times that of the eager result, plus rounding.

    floor: an error that is always allowed, for sums that cancel: n terms of size s leave up to n eps s (Higham 2002, 4.2).
    """
    mine, usual, true = leaves(candidate), leaves(eager), leaves(oracle)
    if mine.keys() != true.keys():
        trial.fail(f"{what}: the outputs are {sorted(mine)}, and {sorted(true)} are due", script=script)
    for path, value in true.items():
        if not is_array(value) or values(value).dtype.kind != "f":
            continue
        dtype, oracle_values = dtype_of(mine[path]), values(value)
        scale = float(np.abs(oracle_values).max()) if oracle_values.size else 0.0
        usual_error = (factor or FACTOR.get(dtype, 2.0)) * max_error(usual[path], value)
        allowed = max(usual_error + 4 * EPS[dtype] * max(scale, 1e-30), floor)
        if not np.isfinite(values(mine[path])).all() and np.isfinite(oracle_values).all():
            trial.fail(f"{what}: {path} is not finite in {dtype}", first={"tensor": path}, cause="overflow", script=script)
        if (measured := max_error(mine[path], value)) > allowed:
            trial.fail(
                f"{what}: {path} is {measured:.3g} from the float64 result, and {allowed:.3g} is allowed",
                measured=measured, allowed=allowed, first={"tensor": path, "index": worst(mine[path], value)},
                cause=cause or ratio_cause(mine[path], value),
                script=script,
            )  # fmt: skip
    trial.exercised(what, telling(true))


def ratio_cause(got: Any, want: Any) -> str | None:
    """What a constant ratio between two arrays tells, such as a factor that was applied twice or left out."""
    a, b = values(got), values(want)
    if a.dtype.kind != "f" or b.dtype.kind != "f" or a.shape != b.shape or not a.size:
        return None
    if np.isnan(a).any() and not np.isnan(b).any():
        return "not a number"
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    with np.errstate(invalid="ignore", over="ignore"):
        kept = np.abs(b) > 1e-8 * np.abs(b).max()
        if not kept.any():
            return None
        ratio = a[kept] / b[kept]
        value = float(ratio.mean())
        if float(ratio.max() - ratio.min()) > 1e-4 * abs(value):
            return None
    return None if abs(value - 1) < 1e-6 else f"a constant factor of {value:.6g} throughout"


def _form(array: Any) -> str:
    return f"{dtype_of(array)}{list(values(array).shape)}"


def _item(array: Any, at: list[int]) -> str:
    value = values(array)[tuple(at)]
    return str(value.item()) if np.iscomplexobj(value) else f"{value.item():.9g}"
