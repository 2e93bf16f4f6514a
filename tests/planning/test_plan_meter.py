"""The meter counts what is alive, once, by what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mapsto.planning.search import LIMIT, Trend, largest
from mapsto.planning.timeline import LABELS, Timeline
from mapsto.torch.planning.meter import Meter

KB = 1024


def test_views_count_once_and_what_is_freed_no_more() -> None:
    with Meter() as meter:
        a = torch.empty(KB, dtype=torch.uint8)
        view, alias = a[10:], a.detach()
        b = torch.empty(2 * KB, dtype=torch.uint8)
        del a, view
        c = torch.empty(KB, dtype=torch.uint8)
        del b, alias
        torch.empty(KB // 2, dtype=torch.uint8)
    peak, labels = meter.peak()
    assert peak == labels["activations"] == 4 * KB  # a (held by its alias), b and c
    del c
    assert meter.alive("activations") == 0


def test_a_storage_that_is_emptied_and_filled_counts_by_its_size_at_the_moment() -> None:
    with Meter() as meter:
        a = torch.empty(4 * KB, dtype=torch.uint8)
        a.untyped_storage().resize_(0)
        moment = meter.now
        b = torch.empty(KB, dtype=torch.uint8)
        assert meter.peak(moment)[0] == KB
        a.untyped_storage().resize_(2 * KB)
        del b
    assert meter.peak(moment)[0] == 3 * KB
    assert meter.peak()[0] == 4 * KB
    resize = torch.UntypedStorage.resize_
    with Meter():
        assert torch.UntypedStorage.resize_ is not resize
    assert torch.UntypedStorage.resize_ is resize


def test_labels_tell_what_the_peak_was_made_of() -> None:
    with Meter() as meter:
        weight = torch.nn.Parameter(torch.zeros(KB))
        held = meter.label([weight, weight.detach()], "parameters")
        meter.label_the_rest("buffers")
        moment = meter.now
        (weight * 2.0).sum().backward()
        meter.label([weight.grad], "gradients")
        state = [torch.zeros(KB)]
        meter.label(state, "optimizer")
    assert held == 4 * KB
    peak, labels = meter.peak(moment)
    assert labels["parameters"] == labels["gradients"] == labels["optimizer"] == 4 * KB
    assert peak == sum(labels.values())


def test_state_that_a_first_step_makes_counts_from_its_beginning() -> None:
    with Meter() as meter:
        large = torch.empty(8 * KB, dtype=torch.uint8)
        del large
        state = torch.empty(KB, dtype=torch.uint8)
        meter.label([state], "optimizer")
    assert meter.peak()[0] == 9 * KB


def test_a_sparse_gradient_counts_its_indices_and_values() -> None:
    with Meter() as meter:
        table = torch.nn.Embedding(100, 4, sparse=True)
        table(torch.tensor([3, 5, 3])).sum().backward()
        assert meter.label([table.weight.grad], "gradients") == 3 * 8 + 3 * 4 * 4


def test_fake_tensors_of_another_mode_do_not_count() -> None:
    with FakeTensorMode() as mode, Meter(mode) as meter:
        a = torch.empty(KB, dtype=torch.uint8)
        with FakeTensorMode():
            b = torch.empty(KB, dtype=torch.uint8)
    assert meter.peak()[0] == KB
    del a, b


@pytest.mark.parametrize("base", [0, 70, 99, 100, 101])
@pytest.mark.parametrize("start", [1, 3, 40, 1000])
def test_the_largest_that_fits_is_found(base: int, start: int) -> None:
    def straight(n: int) -> int:
        return base + 3 * n

    def bent(n: int) -> int:
        return max(80, base + n, 2 * base + n * n // 50)

    def stepped(n: int) -> int:
        return base + 16 * (n // 16)

    for peak in (straight, bent, stepped):
        asked: list[int] = []

        def ask(n: int, peak=peak, asked=asked) -> int:
            assert n not in asked
            asked.append(n)
            return peak(n)

        found = largest(ask, 100, {start: peak(start)})
        assert found == max((n for n in range(1, 200) if peak(n) <= 100), default=0), (peak, base, start)
        assert len(asked) <= 24
    asked = []
    largest(lambda n: asked.append(n) or 10**6 + 977 * n, 10**9, {8: 10**6 + 977 * 8})
    assert len(asked) <= 4  # a straight line is closed at once


def test_what_never_grows_fits_up_to_the_limit_of_the_search() -> None:
    assert largest(lambda n: 5, 10, {1: 5}) >= 1 << 20


# -- what steps foretell -----------------------------------------------------------------------------------------------
def timeline(records: int, *, start: bool = False, bend: int = 1 << 30) -> Timeline:
    """A step of two moments: the first is high by itself, the second grows fast; a first step may do more at its beginning."""
    places = {label: place for place, label in enumerate(LABELS)}
    own = 7 * min(records, bend)
    changes = [("parameters", 3)] * start + [
        ("activations", 900), ("activations", records), ("activations", -900 - records),
        ("activations", own), ("gradients", 5), ("activations", -own),
    ]  # fmt: skip
    held = np.zeros(len(LABELS), np.int64)
    held[0] = 97 + 3 * (not start)
    return Timeline(held, np.array([(places[label], change) for label, change in changes], np.int64))


@pytest.mark.parametrize("first", [1, 8, 500])
@pytest.mark.parametrize(("limit", "right"), [(2000, 270), (1105, 105), (1001, 1), (1000, 0)])
def test_two_steps_foretell_the_largest_that_fits(first: int, limit: int, right: int) -> None:
    asked: list[int] = []
    trend = Trend({first: timeline(first, start=True)})

    def ask(records: int) -> int:
        asked.append(records)
        trend.add(records, timeline(records))
        return trend.known[records].peak()[0]

    known = {first: timeline(first, start=True).peak()[0]}
    assert largest(ask, limit, known, trend) == right == largest(lambda n: timeline(n).peak()[0], limit, known)
    assert len(asked) <= 2 + (right < 2), asked


def test_what_bends_or_does_something_else_is_not_foretold() -> None:
    trend = Trend({n: timeline(n, bend=150) for n in (10, 20)})
    assert trend.crossing(2000) == 270  # it cannot be seen from two
    trend.add(270, timeline(270, bend=150))
    assert not trend.straight
    assert trend.crossing(2000) is None
    assert not trend.ends(20, 100)
    known = {10: timeline(10).peak()[0]}
    trend = Trend({10: timeline(10, bend=150)})

    def ask(records: int) -> int:
        trend.add(records, timeline(records, bend=150))
        return trend.known[records].peak()[0]

    assert largest(ask, 2000, known, trend) == 1000
    other = timeline(30)
    assert Trend({10: timeline(10), 30: Timeline(other.held, other.changes[::-1])}).crossing(2000) is None
    none = Timeline(other.held, other.changes[:0])
    assert Trend({10: none, 30: none}).crossing(2000) is None
    same = timeline(5)
    assert Trend({5: same, 6: same}).crossing(2000) == LIMIT
