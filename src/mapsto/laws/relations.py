"""Relations between two calls of one mapping, for what has no formula: f(g x) = f(x), f(g x) = g f(x), f(f(x)) = f(x), ...

Metamorphic relations (Chen, Cheung and Yiu 1998; Segura et al. 2016): `mapsto.example(it, relations=(...))` states them, and
the laws `layer.relations`, `loss.relations` and `transform.relations` check them on drawn and on hard inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .compare import Array
from .hard_inputs import mapped

Function = Callable[[Any], Any]
"""A mapping as relations see it: the inputs (a tuple, or a dict of fields) to a tree of arrays."""
Where = int | str | tuple[int | str, ...]
"""Which inputs: a position or the name of a field, or several."""


@dataclass(frozen=True)
class Change:
    """A change g of arrays. draw: `(generator, array) -> (array -> array)`: one g that suits the shape of the array."""

    name: str
    draw: Callable[[np.random.Generator, Array], Callable[[Array], Array]]


def permuted(axis: int) -> Change:
    """Another order along an axis."""

    def draw(rng: np.random.Generator, x: Array) -> Callable[[Array], Array]:
        order = np.roll(rng.permutation(x.shape[axis]), 1) if x.shape[axis] > 2 else np.arange(x.shape[axis])[::-1]
        return lambda y: np.take(y, order, axis)

    return Change(f"another order along axis {axis}", draw)


def flipped(axis: int) -> Change:
    """The reverse order along an axis."""
    return Change(f"the reverse along axis {axis}", lambda rng, x: lambda y: np.flip(y, axis).copy())  # noqa: ARG005


def rolled(axis: int, by: int = 1) -> Change:
    """A cyclic shift along an axis, by so many places."""
    return Change(f"a cyclic shift by {by} along axis {axis}", lambda rng, x: lambda y: np.roll(y, by, axis))  # noqa: ARG005


def scaled(by: float) -> Change:
    """All numbers times a factor."""
    return Change(f"{by:g} times the input", lambda rng, x: lambda y: y * by)  # noqa: ARG005


def shifted(by: float) -> Change:
    """A number added to all."""
    return Change(f"{by:g} added to the input", lambda rng, x: lambda y: y + by)  # noqa: ARG005


def rotated(axis: int = -1) -> Change:
    """A random rotation (orthogonal, determinant one) of the vectors along an axis."""

    def draw(rng: np.random.Generator, x: Array) -> Callable[[Array], Array]:
        size = x.shape[axis]
        turn, upper = np.linalg.qr(rng.standard_normal((size, size)))
        turn = turn * np.sign(np.diag(upper))
        if np.linalg.det(turn) < 0:
            turn[:, 0] = -turn[:, 0]
        return lambda y: np.moveaxis(np.moveaxis(y, axis, -1) @ turn.T, -1, axis)

    return Change(f"a rotation of axis {axis}", draw)


def changed_by(function: Callable[[Array], Array], name: str = "") -> Change:
    """A change of one's own, `array -> array`."""
    return Change(name or getattr(function, "__name__", "a change"), lambda rng, x: function)  # noqa: ARG005


@dataclass(frozen=True)
class Relation:
    """A statement on calls of a mapping. cases: `(f, inputs, generator)` to what it gives, what is due, and whether the two
    sides were reached from inputs that differ (None where there is nothing of the kind to tell)."""

    name: str
    cases: Callable[[Function, Any, np.random.Generator], Iterator[tuple[Any, Any, bool | None]]]


def invariant_under(change: Change, of: Where = 0) -> Relation:
    """f(g x) = f(x), g being one change of all the inputs `of`."""

    def cases(f: Function, given: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, bool | None]]:
        moved, _ = _moved(given, change, of, rng)
        yield f(moved), f(given), _differ(moved, given, of)

    return Relation(f"invariant under {change.name}", cases)


def equivariant_under(change: Change, of: Where = 0, gives: Change | None = None) -> Relation:
    """f(g x) = g f(x) for every output; gives: the change of outputs where it is another one, drawn from the same seed."""

    def cases(f: Function, given: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, bool | None]]:
        seed = int(rng.integers(1 << 31))
        moved, g = _moved(given, change, of, np.random.default_rng(seed))
        plain = f(given)
        if gives is not None:
            due = mapped(plain, lambda y: gives.draw(np.random.default_rng(seed), y)(y))
        else:
            due = mapped(plain, g)
        yield f(moved), due, _differ(moved, given, of)

    return Relation(f"equivariant under {change.name}", cases)


def symmetric(one: int | str = 0, other: int | str = 1) -> Relation:
    """f(x, y) = f(y, x)."""

    def cases(f: Function, given: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, bool | None]]:  # noqa: ARG001
        swapped = _placed(_placed(given, one, given[other]), other, given[one])
        yield f(swapped), f(given), _differ(swapped, given, (one, other))

    return Relation(f"symmetric in inputs {one} and {other}", cases)


def idempotent(of: int | str = 0) -> Relation:
    """f(f(x)) = f(x): its output, put where its input `of` was (a dict of fields wholly), changes no more."""

    def cases(f: Function, given: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, bool | None]]:  # noqa: ARG001
        once = f(given)
        yield f(_back(given, of, once)), once, None

    return Relation("idempotent: a second time changes nothing", cases)


def inverse(function: Callable[[Any], Any], of: int | str = 0) -> Relation:
    """function(f(x)) = x, for a function of its output (an array; of a dict of fields, the dict)."""

    def cases(f: Function, given: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, bool | None]]:  # noqa: ARG001
        if isinstance(given, dict):
            back = function(f(given))
            yield back, {k: given[k] for k in back}, None
        else:
            yield {"output": np.asarray(function(_one(f(given))))}, {"output": given[of]}, None

    return Relation(f"{getattr(function, '__name__', 'a function')} is its inverse", cases)


def linear(of: int | str = 0) -> Relation:
    """f(a x + b y) = a f(x) + b f(y), in the input `of`."""

    def cases(f: Function, given: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, bool | None]]:
        x = given[of]
        y = rng.permutation(x.ravel()).reshape(x.shape)
        fx, fy = f(given), f(_placed(given, of, y))
        due = {k: 2.5 * fx[k] - 0.75 * fy[k] for k in fx}
        yield f(_placed(given, of, 2.5 * x - 0.75 * y)), due, None

    return Relation(f"linear in input {of}", cases)


def homogeneous(degree: float, of: int | str = 0) -> Relation:
    """f(a x) = a^degree f(x) for a > 0."""

    def cases(f: Function, given: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, bool | None]]:  # noqa: ARG001
        yield f(_placed(given, of, 3.0 * given[of])), mapped(f(given), lambda y: 3.0**degree * y), None

    return Relation(f"homogeneous of degree {degree:g} in input {of}", cases)


def monotone(of: int | str = 0, *, falling: bool = False) -> Relation:
    """x <= y everywhere gives f(x) <= f(y) everywhere (>= where falling)."""

    def cases(f: Function, given: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, bool | None]]:
        x = given[of]
        more = f(_placed(given, of, x + rng.exponential(size=x.shape)))
        less = f(given)
        low, high = (more, less) if falling else (less, more)
        yield high, {k: np.maximum(high[k], low[k]) for k in high}, None

    return Relation(f"{'falling' if falling else 'rising'} in input {of}", cases)


def conserved_sum(axis: int | tuple[int, ...] | None = None, of: int | str = 0) -> Relation:
    """The sum of its output along the axis (None: of all) is that of its input."""

    def cases(f: Function, given: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, bool | None]]:  # noqa: ARG001
        made = f(given)
        made = made[of] if isinstance(given, dict) else _one(made)
        yield {"sum": np.asarray(made.sum(axis))}, {"sum": np.asarray(given[of].sum(axis))}, None

    return Relation(f"conserves the sum of input {of}", cases)


def sums_to(value: float, axis: int = -1) -> Relation:
    """Its outputs sum to a value along an axis, as probabilities do to one."""

    def cases(f: Function, given: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, bool | None]]:  # noqa: ARG001
        sums = mapped(f(given), lambda y: np.asarray(y.sum(axis)))
        yield sums, mapped(sums, lambda y: np.full_like(y, value)), None

    return Relation(f"outputs sum to {value:g} along axis {axis}", cases)


def within(low: float | None, high: float | None) -> Relation:
    """All its outputs lie between two numbers, the ends included; None leaves a side open."""

    def cases(f: Function, given: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any, bool | None]]:  # noqa: ARG001
        made = f(given)
        yield made, mapped(made, lambda y: np.clip(y, low, high)), None

    return Relation(f"within {low} and {high}", cases)


def _placed(given: Any, at: int | str, value: Any) -> Any:
    if isinstance(given, dict):
        return {**given, at: value}
    return tuple(value if i == at else x for i, x in enumerate(given))


def _back(given: Any, of: int | str, made: Any) -> Any:
    return {**given, **made} if isinstance(given, dict) else _placed(given, of, _one(made))


def _one(made: Any) -> Any:
    """The one output there is."""
    if len(made) != 1:
        raise ValueError(f"this relation is of mappings with one output; there are {', '.join(made)}")
    return next(iter(made.values()))


def _wheres(of: Where) -> tuple[int | str, ...]:
    return of if isinstance(of, tuple) else (of,)


def _moved(given: Any, change: Change, of: Where, rng: np.random.Generator) -> tuple[Any, Callable[[Array], Array]]:
    """The inputs with one g of those that are to change, and that g."""
    wheres = _wheres(of)
    g = change.draw(rng, given[wheres[0]])
    moved = given
    for at in wheres:
        moved = _placed(moved, at, g(given[at]))
    return moved, g


def _differ(moved: Any, given: Any, of: Where) -> bool:
    return any(not np.array_equal(moved[at], given[at]) for at in _wheres(of))
