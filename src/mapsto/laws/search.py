"""A search for inputs on which a law is broken: Hypothesis draws them, shrinks the first that does, and it is kept.

`mapsto check TARGET --search SECONDS` searches for each law that compares a mapping with what its author states. What is found
is written beside the component, into `regressions/NAME.KIND.npz`, and tried in every later check, until it is mended.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import require
from ..core.laws import Trial, Violation, Witness, judge
from .compare import Array
from .hard_inputs import sums_to_one, whole
from .kept_arrays import beside, read_arrays, write_arrays

FOLDER = "regressions"
REACH = 100.0
"""How far beyond the largest number that was drawn floating numbers are searched, as a factor."""
EXAMPLES = 100_000
"""Inputs that are tried at most, however much time there is."""

Check = Callable[[Trial], None]


class _Over(BaseException):
    """The time of a search is up; no `Exception`, which Hypothesis would take for what it looks for."""


def searched(check: Check) -> Check:
    """A check that feeds what `drawn_or_hard` gives: where the trial says so, it is searched for inputs that break it."""

    @wraps(check)
    def made(trial: Trial) -> None:
        drawn: list[Any] = []
        trial.drawn = drawn
        check(trial)
        if trial.search and drawn and not trial.has("drawn_inputs_only"):
            _search(trial, drawn)

    return made


def instead(trial: Trial, given: Any) -> Iterator[tuple[str, Any]] | None:
    """What the search tries, where these inputs are of its size; None where nothing is searched."""
    if trial.tried is not None:
        return iter([("searched", trial.tried)] if _shapes(trial.tried) == _shapes(given) else [])
    if trial.drawn is not None and not any(_shapes(given) == _shapes(x) for x in trial.drawn):
        trial.drawn.append(given)
    return None


def found(trial: Trial, given: Any) -> Iterator[tuple[str, Any]]:
    """What a search found before, of the size of these inputs."""
    path = beside(trial, FOLDER)
    if path is None or not path.exists():
        return
    cases: dict[str, list[Array]] = {}
    for name, array in read_arrays(trial, path).items():
        law, number, _ = name.split("/")
        if law == trial.law.name:
            cases.setdefault(number, []).append(array)
    for number, arrays in cases.items():
        if [a.shape for a in arrays] == [a.shape for a in _arrays(given)]:
            yield f"{FOLDER} {number}", _filled(given, iter(arrays))


def _search(trial: Trial, drawn: list[Any]) -> None:
    """Raises Violation of the smallest inputs that break the law, which are kept: the sizes are searched from the least on."""
    for number, given in enumerate(sorted(drawn, key=_size)):
        until = time.process_time() + trial.search / len(drawn)
        if (broken := _smallest(trial, given, _pooled(given, drawn), until, trial.seed + number)) is None:
            continue
        inputs, witness = broken
        path = _keep(trial, inputs)
        said = f"{witness.said} (found by a search{f'; kept in {path}' if path is not None else ''})"
        text = [np.array2string(a, threshold=20) for a in _arrays(inputs)]
        raise Violation(replace(witness, said=said, case={**witness.case, "given": text}))


def _smallest(trial: Trial, given: Any, every: list[Array], until: float, seed: int) -> tuple[Any, Witness] | None:
    """Inputs of a size that break the law, shrunk as far as time allowed, and how they do."""
    hypothesis: Any = require("hypothesis", "search", "a search of inputs")
    last: list[tuple[Any, Witness]] = []

    def broken(inputs: Any) -> bool:
        if time.process_time() > until:
            raise _Over
        once = copy(trial)
        once.search, once.tried, once.counts, once.controls = 0.0, inputs, Counter(), {}
        _, _, witness = judge(once)
        if witness is not None:
            last[:] = [(inputs, witness)]
        trial.exercised("inputs searched")
        return witness is not None

    settings = hypothesis.settings(
        max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    drawing = random.Random(seed)  # noqa: S311
    with contextlib.suppress(_Over, hypothesis.errors.NoSuchExample):
        hypothesis.find(_strategy(hypothesis.strategies, given, iter(every)), broken, settings=settings, random=drawing)
    return last[0] if last else None


def _keep(trial: Trial, inputs: Any) -> Path | None:
    path = beside(trial, FOLDER)
    if path is None:
        return None
    kept = read_arrays(trial, path) if path.exists() else {}
    number = 1 + max((int(name.split("/")[1]) for name in kept if name.startswith(f"{trial.law.name}/")), default=-1)
    write_arrays(trial, path, {**kept, **{f"{trial.law.name}/{number}/{i}": a for i, a in enumerate(_arrays(inputs))}})
    return path


# -- trees of arrays ---------------------------------------------------------------------------------------------------
def _texts(tree: Any) -> bool:
    return type(tree) is list and bool(tree) and all(isinstance(x, str) for x in tree)


def _arrays(tree: Any) -> list[Array]:
    """The arrays of a tree in order; a list of texts is one."""
    if isinstance(tree, np.ndarray):
        return [tree]
    if _texts(tree):
        return [np.array(tree, str)]
    if isinstance(tree, Mapping):
        return [a for x in tree.values() for a in _arrays(x)]
    return [a for x in tree for a in _arrays(x)] if type(tree) in (tuple, list) else []


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [a.shape for a in _arrays(tree)]


def _size(tree: Any) -> int:
    return sum(a.size for a in _arrays(tree))


def _filled(tree: Any, arrays: Iterator[Array]) -> Any:
    """The tree with other arrays, in order."""
    if isinstance(tree, np.ndarray):
        return next(arrays).astype(tree.dtype)
    if _texts(tree):
        return [str(x) for x in next(arrays)]
    if isinstance(tree, Mapping):
        return {k: _filled(x, arrays) for k, x in tree.items()}
    return type(tree)(_filled(x, arrays) for x in tree) if type(tree) in (tuple, list) else tree


def _strategy(st: Any, tree: Any, every: Iterator[Array]) -> Any:
    """What is drawn in the place of a tree: arrays of the same shapes and dtypes, within what was drawn of every size."""
    if isinstance(tree, np.ndarray):
        return _array(st, tree, next(every))
    if _texts(tree):
        next(every)
        return st.lists(st.text(max_size=2 * max(map(len, tree))), min_size=len(tree), max_size=len(tree))
    if isinstance(tree, Mapping):
        return st.fixed_dictionaries({k: _strategy(st, x, every) for k, x in tree.items()})
    if type(tree) in (tuple, list):
        return st.tuples(*(_strategy(st, x, every) for x in tree)).map(type(tree))
    return st.just(tree)


def _array(st: Any, x: Array, every: Array) -> Any:
    """As for hard inputs: numbers that are all positive stay between the least and the largest; classes, counts and
    distributions among what was drawn."""
    from hypothesis.extra.numpy import arrays

    if x.dtype == object or not x.size:
        return st.just(x)
    if x.dtype.kind == "f" and sums_to_one(x):
        rows = x.reshape(-1, x.shape[-1])
        picked = st.lists(st.sampled_from(range(len(rows))), min_size=len(rows), max_size=len(rows))
        return picked.map(lambda i: rows[i].reshape(x.shape))
    if x.dtype.kind == "f" and not whole(every):
        reach = REACH * float(np.abs(every).max())
        low, high = (float(every.min()), float(every.max())) if every.min() >= 0 else (-reach, reach)
        return arrays(x.dtype, x.shape, elements=st.floats(low, high, width=8 * x.dtype.itemsize, allow_subnormal=False))
    return arrays(x.dtype, x.shape, elements=st.sampled_from(np.unique(every).tolist()))


def _pooled(given: Any, drawn: list[Any]) -> list[Array]:
    """The values of each array of a tree in all sizes, or in its own where a record more is an array more."""
    alike = [x for x in drawn if len(_arrays(x)) == len(_arrays(given))]
    return [np.concatenate([a.reshape(-1) for a in same]) for same in zip(*map(_arrays, alike), strict=True)]
