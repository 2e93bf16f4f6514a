"""What an author states to be true of a mapping, a reference or relations, and how a law holds the mapping to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.laws import Trial
from ..core.random import derive
from . import search
from .compare import is_array, leaves, max_error, ratio_cause, values, worst
from .hard_inputs import hard, mapped
from .relations import Function, Relation

RTOL, ATOL = 1e-6, 1e-9
"""T5: an independent formula in float64, which rounds otherwise, and may be computed in float32 inside."""
ROUNDING = 16 * float(np.finfo(np.float64).eps / np.finfo(np.float32).eps)
"""The rounding error in float64 over that in float32, with room."""

Reference = Callable[..., Any]


def stated(trial: Trial, found: Any, word: str) -> Any:
    """What the example states under `word`; not applicable where that is nothing."""
    if found is None:
        trial.skip(f"it states no `{word}`")
    return found


def options(trial: Trial, reference: Reference) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Options with which the reference is compared, and whether the author stated them.

    Those of the example; each of its `variants`; and for each option that the reference names, and whose default is a number or
    a truth value, another plausible value: the other truth value, half and twice a number.
    """
    yield {}, True
    for variant in trial.example.more.get("variants", ()):
        yield variant, True
    target = trial.subject.target
    if trial.subject.make is not None:
        return
    try:
        known = inspect.signature(target).parameters
        named = set(inspect.signature(reference).parameters)
    except (TypeError, ValueError):
        return
    for name in sorted(named & set(known)):
        default = trial.example.args.get(name, known[name].default)
        if isinstance(default, bool):
            yield {name: not default}, False
        elif isinstance(default, float) and np.isfinite(default):
            yield {name: default / 2 if default else 0.25}, False
            yield {name: default * 2 if default else 0.5}, False


@contextmanager
def varied(trial: Trial, more: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Within it the subject is built with these options on top of the example's; all options are given."""
    before = trial.subject
    args = {**trial.example.args, **more}
    trial.subject = replace(before, example=replace(trial.example, args=args))
    try:
        with trial.case(**{"options": dict(more)} if more else {}):
            yield args
    finally:
        trial.subject = before


def agrees(
    trial: Trial,
    got: Any,
    due: Any,
    *,
    what: str = "its output",
    by: str = "the reference",
    rough: Callable[[], Any] | None = None,
) -> None:
    """Demand that what a mapping gives is what is due (an array, or several in the order of its outputs, or by name).

    rough: the truth in float32. A reference may be less careful than the mapping: where the truth is not finite nothing is
    compared, and its own rounding error is allowed for, as the difference of the two tells it (times the ratio of the two
    precisions). Whole numbers, truth values and texts are compared exactly.
    """
    mine = {k: y for k, y in leaves(got).items() if is_array(y) or isinstance(y, (str, int, float, bool))}
    theirs = leaves(_outputs(due))
    if not mine.keys() >= theirs.keys():
        if len(theirs) != len(mine):
            trial.fail(f"{by} gives {len(theirs)} outputs, and it gives {len(mine)}: {', '.join(mine)}")
        theirs = dict(zip(mine, theirs.values(), strict=True))
    for number, (path, value) in enumerate(theirs.items()):

        def again(number: int = number) -> Any:
            return list(leaves(_outputs(rough())).values())[number] if rough is not None else None

        _agree(trial, what if path == "output" else f"{what} {path}", mine[path], value, by, again)


def _outputs(due: Any) -> Any:
    """What a reference gives with lists of numbers as arrays; a tuple or a dict is several outputs."""
    if isinstance(due, Mapping):
        return {k: _outputs(v) for k, v in due.items()}
    if isinstance(due, tuple):
        return tuple(_outputs(v) for v in due)
    return np.asarray(due) if isinstance(due, list) else due


def _agree(trial: Trial, what: str, got: Any, due: Any, by: str, again: Callable[[], Any]) -> None:
    mine, theirs = values(got), np.asarray(due)
    if mine.shape != theirs.shape:
        trial.fail(f"{what} has shape {list(mine.shape)}, and {list(theirs.shape)} by {by}", first={"tensor": what})
    counted = mine.dtype.kind not in "fc" or theirs.dtype.kind not in "fciu"
    kept = np.ones(theirs.shape, bool) if counted else np.isfinite(theirs)
    off = np.asarray(mine != theirs) if counted else _beyond(mine, theirs, kept, _tolerance(mine.dtype, theirs, kept))
    if off.any() and not counted and (rough := again()) is not None:
        with np.errstate(all="ignore"):
            loss = ROUNDING * np.abs(np.asarray(rough, theirs.dtype) - theirs)
        kept &= np.isfinite(loss)
        off = _beyond(mine, theirs, kept, _tolerance(mine.dtype, theirs, kept) + np.where(kept, loss, 0))
    if off.any():
        at = [int(i) for i in (np.argwhere(off)[0] if counted else worst(np.where(off, mine, 0), np.where(off, theirs, 0)))]
        trial.fail(
            f"{what} is {_item(mine, at)} at {at}, and {_item(theirs, at)} by {by}",
            measured=None if counted else max_error(np.where(off, mine, 0), np.where(off, theirs, 0)),
            allowed="equal" if counted else _tolerance(mine.dtype, theirs, kept),
            first={"tensor": what, "index": at},
            cause=None if counted else ratio_cause(np.where(kept, mine, 0), np.where(kept, theirs, 0)),
        )
    if kept.any():
        trial.exercised(f"values against {by}", int(kept.sum()))


def _tolerance(dtype: np.dtype[Any], theirs: Any, kept: Any) -> float:
    """What is allowed beside the largest true value: T5, or what suits the dtype of a mapping that keeps to a lower one."""
    scale = float(np.abs(theirs[kept]).max()) if kept.any() else 0.0
    if dtype.kind == "f" and dtype.itemsize < 8:
        return (1e-3 if dtype.itemsize < 4 else 1e-5) * scale + 1e-6
    return ATOL + RTOL * scale


def _beyond(mine: Any, theirs: Any, kept: Any, allowed: Any) -> Any:
    with np.errstate(all="ignore"):
        return kept & ~(np.abs(np.where(kept, mine - theirs, 0)) <= allowed)


def in_float32(tree: Any) -> Any:
    """The tree with its floating arrays in float32."""
    return mapped(tree, lambda x: x.astype(np.float32) if x.dtype == np.float64 else x)


def _item(array: Any, at: list[int]) -> str:
    value = array[tuple(at)].item()
    return f"{value:.9g}" if isinstance(value, float) else repr(value)[:60]


def drawn_or_hard(trial: Trial, given: Any, size: int) -> Iterator[tuple[str, Any]]:
    """The inputs as drawn, the hard ones, and those that a search once found (`search`), unless its tag `drawn_inputs_only`
    says that no others are in its domain; while it is searched, what the search tries in the place of all of them.
    """
    for name, inputs in search.instead(trial, given) or _cases(trial, given, size):
        with trial.case(size=size, inputs=name):
            yield name, inputs


def _cases(trial: Trial, given: Any, size: int) -> Iterator[tuple[str, Any]]:
    cases = hard(given, np.random.default_rng(derive(trial.seed, "hard", size)))
    yield next(cases)
    if not trial.has("drawn_inputs_only"):
        yield from search.found(trial, given)
        yield from cases


def holds(trial: Trial, relation: Any, function: Function, given: Any, size: int) -> None:
    """Demand a relation of a function on the inputs and on hard ones."""
    if not isinstance(relation, Relation):
        trial.undecided(
            f"`relations` holds {relation!r:.60}; use those of mapsto.laws.relations, as invariant_under(permuted(1))"
        )
    for number, (name, inputs) in enumerate(drawn_or_hard(trial, given, size)):
        rng = np.random.default_rng(derive(trial.seed, "relation", relation.name, number))
        try:
            found = list(relation.cases(function, inputs, rng))
        except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
            if name != "as drawn":
                continue  # outside of its domain
            trial.undecided(f"{relation.name}: {type(error).__name__}: {error}")
        for got, due, moved in found:
            agrees(trial, got, due, by=relation.name)
            if moved is not None:
                trial.control(f"{relation.name}: the change changes the inputs", moved)
