"""A model with fewer of its equal blocks, and what its steps tell of the whole: a block more adds the same each time."""

from __future__ import annotations

import functools
import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from torch import nn

from ...core.errors import MapstoError
from ...planning.estimate import Measured
from ...planning.search import Trend
from ...planning.timeline import Timeline, settled
from ...planning.traffic import Traffic
from .alike import kind_of, own_parameters
from .dry_run import DryRun

LEAST = 8
"""Blocks below which a model is stepped as it is."""
FEW = 3
"""Blocks of the shortest model that is stepped: a first one, a last one, and one between."""
FAULTS = (MapstoError, ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a model that counts its blocks may raise where there are fewer; the whole model says whether it is a fault."""
BUCKET = 25 * 1024**2
"""Bytes of gradients that DDP reduces together."""
AHEAD = 1024
"""Changes of memory that are compared to find where two steps go on alike: more than a block makes."""


@dataclass(frozen=True)
class Blocks:
    """Blocks that compute and hold the same, one after another in a list of modules: its path, and their names in it."""

    path: str
    names: tuple[str, ...]

    def cut(self, model: nn.Module, count: int) -> None:
        """Leave the first `count` of them; all names stay what they were."""
        place = model.get_submodule(self.path)
        for name in self.names[count:]:
            del place._modules[name]


def equal_blocks(model: nn.Module) -> Blocks | None:
    """The longest run of equal blocks, whose parameters no other module has; None where there are few."""
    found = [run for path, module in model.named_modules() for run in _runs(model, path, module)]
    longest = max(found, key=lambda run: len(run.names), default=None)
    return longest if longest is not None and len(longest.names) >= LEAST else None


def _runs(model: nn.Module, path: str, module: nn.Module) -> Iterator[Blocks]:
    if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(module) < LEAST:
        return
    kinds = [kind_of(child) if own_parameters(model, child) else id(child) for child in module]
    names = list(module._modules)
    for _, run in groupby(range(len(kinds)), key=lambda place: kinds[place]):
        yield Blocks(path, tuple(names[place] for place in run))


Change = Callable[[nn.Module], None]


class Shorter:
    """Steps of a model with three and four of its equal blocks, which tell those of all of them.

    dry_run: (axes, what is done to the model) -> its dry run on the first rank of that mesh; regular: the kinds of meshes
    (axes that are not 1) of which one was compared with a third model, of one block more, and whether it was right.
    """

    def __init__(self, dry_run: Callable[[Mapping[str, int], Change], AbstractContextManager[DryRun]], blocks: Blocks) -> None:
        self.dry_run, self.blocks = dry_run, blocks
        self.missing = len(blocks.names) - FEW
        self.regular: dict[frozenset[str], bool] = {}

    def tells(self, axes: Mapping[str, int], whole: Measured) -> bool:
        """Whether it tells exactly the step that the whole model was seen to do."""
        try:
            one, two = (self._steps(count, axes, [whole.records])[0] for count in (FEW, FEW + 1))
        except FAULTS:  # a model that counts its blocks
            return False
        return same(lengthened(one, two, self.missing), whole)

    def told(self, axes: Mapping[str, int], records: int, usable: int | None) -> tuple[Measured, int | None] | None:
        """A step, and the largest micro-batch that fits into so much memory; None where a step of the whole must tell."""
        kind = frozenset(axis for axis, size in axes.items() if size > 1)
        try:
            found = self._told(axes, records, usable) if self.regular.get(kind, True) else None
            if found is not None and kind not in self.regular:
                (third,) = self._steps(FEW + 2, axes, [records])
                self.regular[kind] = same(lengthened(*self._pair, 2), third)
        except FAULTS:  # the whole model says the same, or it can do without what the short one lacks
            return None
        return found if self.regular.get(kind) else None

    def _told(self, axes: Mapping[str, int], records: int, usable: int | None) -> tuple[Measured, int | None] | None:
        numbers = [records] if usable is None else [records, 2 * records]
        short = self._steps(FEW, axes, numbers)
        with self.dry_run(axes, functools.partial(self.blocks.cut, count=FEW + 1)) as run:
            long = [run.step(number) for number in numbers]
            self._pair = short[0], long[0]
            if self._scattered(axes):
                return None
            found = [lengthened(one, two, self.missing) for one, two in zip(short, long, strict=True)]
            if usable is None:
                return None if found[0] is None else (found[0], None)
            most = Trend({one.records: one.timeline for one in found if one is not None}).crossing(usable)
            if found[0] is None or most is None:
                return None
            trend = Trend({one.records: one.timeline for one in long})
            number = max(most, 1) if most not in numbers else 3 * records
            trend.add(number, run.step(number).timeline)
            return (found[0], most) if trend.straight else None

    def _scattered(self, axes: Mapping[str, int]) -> bool:
        """Whether buckets of gradients may reach over blocks, so that a block more does not make as many more."""
        short, long = (one.held["gradients"] for one in self._pair)
        return axes["replicate"] > 1 and axes["shard"] * axes["tensor"] == 1 and long - short < BUCKET

    def _steps(self, count: int, axes: Mapping[str, int], numbers: Sequence[int]) -> list[Measured]:
        """Steps of the model with so many of its equal blocks, of so many records each."""
        try:
            with self.dry_run(axes, functools.partial(self.blocks.cut, count=count)) as run:
                return [run.step(number) for number in numbers]
        finally:
            gc.collect()


# -- what a block more adds ----------------------------------------------------------------------------------------------
def lengthened(one: Measured, two: Measured, times: int) -> Measured | None:
    """The step of a model with `times` blocks more than that of `one`, of which `two` is a step with one more.

    None where what a block adds is not seen.
    """
    changes = _repeated(one.timeline.changes, two.timeline.changes, times)
    kinds = list(dict.fromkeys((moved.collective, moved.ranks, moved.axis) for moved in (*one.traffic, *two.traffic)))
    moved = _repeated(_rows(one.traffic, kinds), _rows(two.traffic, kinds), times)
    if changes is None or moved is None:
        return None
    timeline = Timeline(one.timeline.held + times * (two.timeline.held - one.timeline.held), settled(changes))
    peak, at_peak = timeline.peak()
    held = {name: size + times * (two.held[name] - size) for name, size in one.held.items()}
    traffic = tuple(Traffic(name, size, ranks, axis) for kind, size in moved.tolist() for name, ranks, axis in (kinds[kind],))
    return replace(one, held=held, peak=peak, at_peak=at_peak, traffic=traffic, timeline=timeline)


def _rows(traffic: Sequence[Traffic], kinds: Sequence[tuple[str, int, str]]) -> Any:
    """(place in kinds, bytes) of each collective in turn (int64[n, 2])."""
    rows = [(kinds.index((moved.collective, moved.ranks, moved.axis)), moved.bytes) for moved in traffic]
    return np.array(rows, np.int64).reshape(-1, 2)


def same(one: Measured | None, other: Measured) -> bool:
    """Whether two steps are the same: every change of memory, what is held and what is moved."""
    return (
        one is not None
        and one.held == other.held
        and Counter(one.traffic) == Counter(other.traffic)
        and np.array_equal(one.timeline.held, other.timeline.held)
        and np.array_equal(one.timeline.changes, other.timeline.changes)
    )


def _repeated(one: Any, two: Any, times: int) -> Any:
    """What stands in `two` and not in `one`, so many times; a change that is larger in `two`, larger as often.

    one, two: (place in LABELS, bytes) (int64[n, 2]). None where the two cannot be laid side by side.
    """
    parts: list[Any] = []
    while True:
        count = min(len(one), len(two))
        differ = (one[:count] != two[:count]).any(1)
        alike = int(differ.argmax()) if differ.any() else count
        parts.append(one[:alike])
        one, two = one[alike:], two[alike:]
        if not len(one) and not len(two):
            return np.concatenate(parts)
        more = _inserted(one, two)
        if more is None:
            return None
        parts.append(np.tile(two[:more], (times, 1)))
        two = two[more:]
        if len(one) and (one[0] != two[0]).any():  # as large as there are blocks, such as a stack of their norms
            parts.append(one[:1] + times * (two[:1] - one[:1]))
            one, two = one[1:], two[1:]


def _inserted(one: Any, two: Any) -> int | None:
    """How many changes `two` has before it goes on like `one` for the longest, but for changes that are larger in it."""
    if not len(one):
        return len(two)
    ahead = min(AHEAD, len(one))
    padded = np.concatenate([two, np.full((ahead, 2), -1)])
    rows = np.lib.stride_tricks.sliding_window_view(padded, ahead, axis=0)[: len(two)]  # [start, 2, ahead]
    wanted = one[:ahead].T
    equal = (rows[:, 0] == wanted[0]) & (rows[:, 1] == wanted[1])
    larger = (rows[:, 0] == wanted[0]) & (rows[:, 1] * np.sign(wanted[1]) > np.abs(wanted[1]))
    along = np.logical_and.accumulate(equal | larger, 1)
    alike = (equal & along).sum(1) * (AHEAD + 1) + along.sum(1)
    return int(alike.argmax()) if len(two) and alike.max() > 0 else None
