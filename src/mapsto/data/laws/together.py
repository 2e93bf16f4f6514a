"""Fields of a record that belong together, such as an image and its mask: what moves one has to move the other alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np

from ...core.laws import Trial
from .contents import fields_of

LEAST = 4
"""The least height and width of a field whose places can be told apart."""
DRAWS = 16
STILL, ALIKE = 0.7, 0.5
"""Correlations with itself below which a field was moved, and between two fields above which they were moved alike."""
RARE = 0.1
"""The share of moved records that may be unlike by chance, such as one of which little is left."""


def fields_move_together(trial: Trial, apply: Callable[[dict[str, Any], int], Any], batch: dict[str, Any]) -> None:
    """Demand that fields of one height and width, given one pattern, show one pattern after the transform moved them.

    An author states other pairs, or that only one is moved, by `together=[("image", "mask")]`, and by the tag
    `separate_draws` that fields are moved by draws of their own on purpose.
    """
    if trial.has("separate_draws"):
        return
    stated = [tuple(pair) for pair in trial.example.more.get("together", ())]
    if lost := [n for pair in stated for n in pair if not isinstance(batch.get(n), np.ndarray)]:
        trial.undecided(f"`together` names {lost[0]!r}, which is no array of the batch; there are {', '.join(batch)}")
    for one, other, axes in _pairs(batch, stated):
        rng = np.random.default_rng(trial.seed)
        shape = tuple(np.shape(batch[one])[a] for a in axes[0])
        pattern = rng.random((len(batch[one]), *shape)) < 0.5
        given = {**batch, one: _painted(batch[one], pattern, axes[0]), other: _painted(batch[other], pattern, axes[1])}
        _judge(trial, apply, given, (one, other), axes, must=(one, other) in stated)


Axes = tuple[tuple[int, int], tuple[int, int]]


def _pairs(batch: dict[str, Any], stated: list[tuple[Any, ...]]) -> Iterator[tuple[str, str, Axes]]:
    """Pairs of fields with a common height and width, and the axes of these in each."""
    arrays = [n for n, v in batch.items() if isinstance(v, np.ndarray) and v.ndim in (3, 4) and v.dtype.kind in "buif"]
    for one, other in stated or combinations(arrays, 2):
        sizes = ((a, b) for a in _planes(batch[one]) for b in _planes(batch[other]))
        for a, b in sizes:
            mine, theirs = (tuple(batch[n].shape[i] for i in axes) for n, axes in ((one, a), (other, b)))
            if mine == theirs and min(mine) >= LEAST:
                yield one, other, (a, b)
                break


def _planes(x: Any) -> list[tuple[int, int]]:
    return [(1, 2)] if x.ndim == 3 else [(2, 3), (1, 2)]


def _painted(x: Any, pattern: Any, axes: tuple[int, int]) -> Any:
    """A pattern in the least and the largest number of a field, in every channel."""
    plane = pattern if x.ndim == 3 else np.expand_dims(pattern, 1 if axes == (2, 3) else 3)
    return np.broadcast_to(np.where(plane, x.max(), x.min()), x.shape).astype(x.dtype)


def _judge(
    trial: Trial,
    apply: Callable[[dict[str, Any], int], Any],
    given: dict[str, Any],
    names: tuple[str, str],
    axes: Axes,
    *,
    must: bool,
) -> None:
    before = [_plane(given[n], a) for n, a in zip(names, axes, strict=True)]
    moved, either, apart = np.zeros(2, int), 0, 0
    for draw in range(DRAWS):
        try:
            found = fields_of(apply(dict(given), draw))
        except Exception:  # noqa: BLE001  # a pattern may be no mask that it takes
            return
        if not all(isinstance(found.get(n), np.ndarray) and found[n].ndim == given[n].ndim for n in names):
            return
        after = [_plane(found[n], a) for n, a in zip(names, axes, strict=True)]
        if after[0].shape != after[1].shape or len(after[0]) != len(before[0]):
            return
        for i in range(len(before[0])):
            now = [_likeness(before[k][i], after[k][i]) < STILL for k in (0, 1)]
            moved += now
            either += any(now)
            apart += any(now) and _likeness(after[0][i], after[1][i]) < ALIKE
    if not either or not (must or moved.all()):
        return
    with trial.case(fields=names, draws=DRAWS):
        trial.demand(
            apart <= RARE * either,
            f"given one pattern, {names[0]!r} and {names[1]!r} show two after it in {apart} of {either} records that it moved",
            measured=apart, allowed=int(RARE * either), first={"field": names[1]},
            cause="each field has a draw of its own (declare tags={'separate_draws'} where it is meant)",
        )  # fmt: skip


def _plane(x: Any, axes: tuple[int, int]) -> Any:
    return x.astype(np.float64) if x.ndim == 3 else x.astype(np.float64).mean(1 if axes == (2, 3) else 3)


def _likeness(one: Any, other: Any) -> float:
    """How much two pictures correlate, whichever is light and which dark; 0 where their shapes differ, 1 where one is flat."""
    if one.shape != other.shape:
        return 0.0
    a, b = one - one.mean(), other - other.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return abs(float((a * b).sum())) / size if size else 1.0
