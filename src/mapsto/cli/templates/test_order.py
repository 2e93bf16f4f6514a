"""What an order owes: each epoch is a permutation, and a position's record depends on (seed, epoch, position) alone."""

from __future__ import annotations

import numpy as np
import pytest

import mapsto

MyName = mapsto.registry.get("order", "my_name")


@pytest.mark.parametrize("records", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_record_comes_once_an_epoch(records: int, epoch: int) -> None:
    found = MyName(stride=3).over(records, seed=11)(epoch, np.arange(records))
    assert sorted(found.tolist()) == list(range(records))


def test_any_position_can_be_asked_alone() -> None:
    order = MyName().over(100, seed=4)
    whole = order(2, np.arange(100))
    assert [int(order(2, np.array([p]))[0]) for p in (0, 57, 99)] == whole[[0, 57, 99]].tolist()


def test_epochs_differ() -> None:
    order = MyName(stride=3).over(10, seed=0)
    assert order(0, np.arange(10)).tolist() != order(1, np.arange(10)).tolist()


def test_a_reader_takes_it() -> None:
    from mapsto.data.reader import Batches

    reader = Batches({"input": np.arange(10)}, batch_size=4, order=MyName(stride=2), seed=3)
    seen = [reader.batch(i)["input"].tolist() for i in range(3)]
    assert seen == [[3, 4, 5, 6], [7, 8, 9, 0], [1, 2]]
