"""Orders that draw by a field: as often as they say, the same at any position, whatever was asked before."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mapsto.core.errors import DataError
from mapsto.data import Arrays, Balanced, Batches, Curriculum, Weighted

COUNT = 60
ROWS = Arrays(
    id=np.arange(COUNT),
    weight=np.arange(COUNT) % 4 * 0.5,
    target=np.where(np.arange(COUNT) < 50, 0, np.where(np.arange(COUNT) < 57, 1, 2)),
    label=["common" if i < 50 else "rare" for i in range(COUNT)],
    length=(np.arange(COUNT) * 37) % COUNT,
)
EVERY: list[Any] = [Weighted("weight"), Balanced("target"), Curriculum("length"), Weighted(list(range(COUNT)), records=17)]


def whole(order: Any, epoch: int = 0) -> Any:
    return order(epoch, np.arange(len(order)))


def counts(order: Any, epochs: int) -> Any:
    return np.sum([np.bincount(whole(order, epoch), minlength=COUNT) for epoch in range(epochs)], axis=0)


@pytest.mark.parametrize("order", EVERY, ids=lambda order: type(order).__name__)
def test_a_position_is_the_same_whatever_is_asked_with_it(order: Any) -> None:
    made = order.over_source(ROWS, COUNT, 5)
    found, some = whole(made, 3), np.random.default_rng(0).integers(0, len(made), 40)
    assert found.dtype == np.int64
    assert np.array_equal(made(3, some), found[some])
    assert np.array_equal(np.concatenate([made(3, np.array([i])) for i in range(len(made))]), found)
    assert np.array_equal(pickle.loads(pickle.dumps(made))(3, some), found[some])
    assert not np.array_equal(found, whole(made, 4))
    assert not np.array_equal(found, whole(order.over_source(ROWS, COUNT, 6), 3))
    assert len(made(3, some[:0])) == 0


def test_weighted_draws_are_distributed_as_the_weights() -> None:
    weights = np.arange(COUNT) % 4 * 0.5
    found = counts(Weighted("weight").over_source(ROWS, COUNT, 1), 400)
    assert not found[weights == 0].any()
    want = 400 * COUNT * weights / weights.sum()
    there = weights > 0
    assert stats.chisquare(found[there], want[there]).pvalue > 1e-4
    assert stats.chisquare(found[there], np.full(there.sum(), found.sum() / there.sum())).pvalue < 1e-9  # the control


def test_weighted_draws_are_independent_of_their_neighbours() -> None:
    found = np.concatenate([whole(Weighted([1.0] * 6).over_source(Arrays(id=np.arange(6)), 6, 2), e) for e in range(4000)])
    table = np.histogram2d(found[:-1], found[1:], bins=6)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_weighted_values_of_a_seed_never_change() -> None:
    made = Weighted([1, 2, 3, 4], records=12, seed=7).over_source(Arrays(id=np.arange(4)), 4, 0)
    sums, want = np.cumsum([1, 2, 3, 4]), []
    from mapsto.core.random import GOLDEN, derive, mix

    for position in range(12):  # the same in whole numbers of Python
        share = (mix(derive(7, "weighted", 2) + GOLDEN * (position + 1)) >> 11) / 2**53
        want.append(int(np.flatnonzero(sums > share * 10)[0]))
    assert whole(made, 2).tolist() == want


def test_every_class_comes_equally_often_in_every_batch() -> None:
    reader = Batches(ROWS, 12, order=Balanced("target"), seed=3)
    assert reader.records == COUNT
    for position in range(20):
        assert np.bincount(reader.batch(position)["target"]).tolist() == [4, 4, 4]
    words = Batches(ROWS, 10, order=Balanced("label"))
    assert sorted(words.batch(2)["label"]) == ["common"] * 5 + ["rare"] * 5


def test_no_record_of_a_class_comes_again_before_all_have_come() -> None:
    order = Balanced("target", records=30).over_source(ROWS, COUNT, 4)
    stream = np.concatenate([whole(order, epoch) for epoch in range(14)])
    for first, size in ((0, 50), (50, 7), (57, 3)):
        own = stream[(stream >= first) & (stream < first + size)]
        for start in range(0, len(own) - size + 1, size):
            assert len(set(own[start : start + size].tolist())) == size


def test_a_curriculum_begins_with_the_easy_records() -> None:
    order = Curriculum("length", start=0.2, until=4).over_source(ROWS, COUNT, 0)
    lengths = ROWS.fields["length"]
    for epoch, most in ((0, 12), (1, 24), (2, 36), (3, 48), (4, 60), (9, 60)):
        found = whole(order, epoch)
        assert sorted(set(lengths[found].tolist())) == list(range(most))
        assert np.bincount(lengths[found]).max() == -(-COUNT // most)  # gone through evenly
    hard = Curriculum("length", share=lambda epoch: 0.1 * (epoch + 1), hardest="first").over_source(ROWS, COUNT, 0)
    assert set(lengths[whole(hard, 1)].tolist()) == set(range(48, 60))


def test_an_epoch_of_its_own_length_and_a_limit_are_kept() -> None:
    assert Batches(ROWS, 10, order=Weighted("weight", records=25)).records == 25
    few = Batches(ROWS, 10, order=Balanced("label"), limit=55)
    assert max(few.indices(p).max() for p in range(20)) == 54
    assert Batches(ROWS, 10, order=Balanced("label")).sequential().indices(0).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Weighted("wieght"), "no field 'wieght'.*did you mean 'weight'"),
        (Weighted("label"), "field 'label' holds no numbers"),
        (Weighted([1, 2]), "2 weights were given for 60 records"),
        (Weighted([-1.0] + [1.0] * 59), "weight of record 0 is -1.0"),
        (Weighted([float("nan")] * 60), "weight of record 0 is nan"),
        (Weighted([0.0] * 60), "sum to 0.0"),
        (Curriculum("length", share=lambda epoch: 0.0), "share of epoch 0 is 0.0"),
        (Balanced("lable"), "did you mean 'label'"),
    ],
)
def test_what_cannot_be_drawn_by_is_one_clear_error(order: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Batches(ROWS, 5, order=order).batch(0)


def test_an_order_without_a_source_says_what_it_lacks() -> None:
    with pytest.raises(DataError, match="which the reader gives it"):
        len(Weighted("weight"))
