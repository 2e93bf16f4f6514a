"""Inputs that bugs need: what a law feeds beside random numbers, within the range that the random ones suggest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .compare import Array

LARGE, TINY = 100.0, 1e-6
"""Factors of values far from those that are drawn, and near zero."""


def hard(given: Any, rng: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """What was drawn, and then the same tree of arrays with other values, each with its name; what changes nothing is left out.

    Floating numbers keep to the interval that was drawn where it has no negative ones (prices, probabilities), and rows that
    sum to one are exchanged, or all on one class; integers are among those that were drawn, but bytes, which span 0 to 255.
    """
    yield "as drawn", given
    for name, change in CHANGES.items():

        def one(x: Array, change: Callable[[Array, np.random.Generator], Array] = change) -> Array:
            return change(x, rng)

        changed = mapped(given, one)
        if not _same(changed, given):
            yield name, changed


def mapped(tree: Any, change: Callable[[Array], Array]) -> Any:
    """The tree with `change` of each of its arrays."""
    if isinstance(tree, np.ndarray):
        return change(tree)
    if isinstance(tree, Mapping):
        return {k: mapped(v, change) for k, v in tree.items()}
    if type(tree) in (tuple, list):
        return type(tree)(mapped(x, change) for x in tree)
    return tree


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, Mapping):
        return all(_same(v, other[k]) for k, v in one.items())
    return all(_same(a, b) for a, b in zip(one, other, strict=True)) if type(one) in (tuple, list) else True


def _floating(change: Callable[[Array], Array]) -> Callable[[Array, np.random.Generator], Array]:
    """A change of floating numbers that stays within what was drawn where nothing negative was."""

    def made(x: Array, rng: np.random.Generator) -> Array:  # noqa: ARG001  # the signature of all
        if x.dtype.kind != "f" or not x.size or sums_to_one(x) or whole(x):
            return x
        y = change(x)
        return np.asarray(y if x.min() < 0 else np.clip(y, x.min(), x.max()), x.dtype)

    return made


def sums_to_one(x: Array) -> bool:
    """Whether rows are distributions."""
    return x.ndim > 1 and bool((x >= 0).all()) and np.allclose(x.sum(-1), 1)


def whole(x: Array) -> bool:
    """Whether floating numbers are classes, counts or truth values."""
    return bool((x == np.round(x)).all())


def _countable(x: Array) -> bool:
    return bool(x.size) and (x.dtype.kind in "iu" or (x.dtype.kind == "f" and whole(x)))


def _repeated(x: Array, rng: np.random.Generator) -> Array:  # noqa: ARG001
    return np.repeat(x[:1], len(x), axis=0) if x.ndim and len(x) else x


def _one_number(x: Array, rng: np.random.Generator) -> Array:  # noqa: ARG001
    return np.full_like(x, x.flat[0]) if _countable(x) else x


def _ends(x: Array, rng: np.random.Generator) -> Array:
    if x.dtype == np.uint8:
        return np.where(rng.random(x.shape) < 0.5, np.uint8(0), np.uint8(255))
    return np.where(rng.random(x.shape) < 0.5, x.min(), x.max()) if _countable(x) else x


def _on_one_class(x: Array, rng: np.random.Generator) -> Array:
    """Distributions that are certain: 0 log 0 is what they are for."""
    if x.dtype.kind != "f" or not x.size or not sums_to_one(x):
        return x
    return np.asarray(np.eye(x.shape[-1])[rng.integers(0, x.shape[-1], x.shape[:-1])], x.dtype)


def _some(x: Array, rng: np.random.Generator) -> Array:
    return np.asarray(rng.random(x.shape) < 0.5) if x.dtype.kind == "b" else x


def _all(value: bool) -> Callable[[Array, np.random.Generator], Array]:
    return lambda x, rng: np.full_like(x, value) if x.dtype.kind == "b" else x  # noqa: ARG005


CHANGES: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "zeros": _floating(np.zeros_like),
    "one constant": _floating(lambda x: np.full_like(x, 0.75)),
    "negative": _floating(lambda x: -np.abs(x)),
    "rounding ties": _floating(lambda x: np.round(2 * x) / 2),
    "large": _floating(lambda x: LARGE * x),
    "tiny": _floating(lambda x: TINY * x),
    "certain": _on_one_class,
    "equal records": _repeated,
    "one repeated index": _one_number,
    "smallest and largest": _ends,
    "half of them true": _some,
    "all true": _all(True),
    "none true": _all(False),
}
"""Name -> change of one array; arrays that it does not concern stay."""
