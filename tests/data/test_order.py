"""The order is a bijection for every length, reproducible, different in each epoch, and statistically a shuffle."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.core.errors import DataError
from mapsto.data.order import Sequential, Shuffled


def test_a_bijection_with_its_inverse_for_every_length() -> None:
    for n in range(1, 301):
        order, everything = Shuffled(n, 7), np.arange(n)
        for epoch in (0, 1, 2, 10**6):
            found = order(epoch, everything)
            assert found.dtype == np.int64
            assert np.array_equal(np.sort(found), everything), (n, epoch)
            assert np.array_equal(order.inverse(epoch, found), everything), (n, epoch)


@pytest.mark.parametrize("n", [2**16, 2**16 + 1, 100_003, 1_000_000])
def test_a_bijection_where_the_words_are_larger(n: int) -> None:
    assert np.array_equal(np.sort(Shuffled(n, 1)(3, np.arange(n))), np.arange(n))


@settings(max_examples=150, deadline=None)
@given(
    n=st.one_of(st.integers(1, 2**62), st.sampled_from([2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 10**12, 2**62])),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 2**40),
    data=st.data(),
)
def test_any_position_of_any_length_has_one_record_and_back(n: int, seed: int, epoch: int, data: Any) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20, unique=True)), np.int64)
    order = Shuffled(n, seed)
    found = order(epoch, positions)
    assert ((found >= 0) & (found < n)).all()
    assert len(set(found.tolist())) == len(positions)
    assert np.array_equal(order.inverse(epoch, found), positions)


def test_positions_are_independent_of_how_they_are_asked_for() -> None:
    order = Shuffled(1000, 3)
    whole = order(5, np.arange(1000))
    some = np.random.default_rng(0).integers(0, 1000, 77)
    assert np.array_equal(order(5, some), whole[some])
    assert np.array_equal(np.concatenate([order(5, np.array([i])) for i in range(50)]), whole[:50])
    assert np.array_equal(pickle.loads(pickle.dumps(order))(5, some), whole[some])


def test_seed_and_epoch_decide_and_nothing_else() -> None:
    everything = np.arange(500)
    first = Shuffled(500, 1)(0, everything)
    assert np.array_equal(first, Shuffled(500, 1)(0, everything))
    for other in (Shuffled(500, 1)(1, everything), Shuffled(500, 2)(0, everything), everything):
        assert (first != other).mean() > 0.98


def test_the_order_of_a_seed_is_a_promise_between_versions() -> None:
    """A resumed run must see the data it would have seen: these values may never change."""
    assert Shuffled(10, 0)(0, np.arange(10)).tolist() == GOLDEN_10
    assert Shuffled(10**12, 42)(3, np.array([0, 1, 10**12 - 1])).tolist() == GOLDEN_TERA


GOLDEN_10 = [4, 2, 1, 5, 9, 6, 7, 8, 0, 3]
GOLDEN_TERA = [495378705761, 777500361438, 584875931363]


def z_of_chi_square(counts: Any, expected: float) -> float:
    """How many standard deviations a chi-square statistic lies above its mean (one degree of freedom lost)."""
    counts = np.asarray(counts, float).ravel()
    freedom = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


def permutation_counts(make: Any, n: int, epochs: int) -> list[int]:
    number = {p: i for i, p in enumerate(itertools.permutations(range(n)))}
    counts = [0] * len(number)
    for epoch in range(epochs):
        counts[number[tuple(make(epoch).tolist())]] += 1
    return counts


@pytest.mark.parametrize(("n", "epochs"), [(2, 1000), (3, 1000), (4, 2000), (5, 3000)])
def test_all_permutations_of_few_records_are_equally_likely(n: int, epochs: int) -> None:
    order = Shuffled(n, 11)
    counts = permutation_counts(lambda epoch: order(epoch, np.arange(n)), n, epochs)
    assert abs(z_of_chi_square(counts, epochs / len(counts))) < 4.5


def test_the_permutation_test_sees_a_network_with_too_few_rounds() -> None:
    order = Shuffled(5, 11)
    order.rounds = 4
    counts = permutation_counts(lambda epoch: order(epoch, np.arange(5)), 5, 2000)
    assert z_of_chi_square(counts, 2000 / 120) > 20


@pytest.mark.parametrize("n", [7, 16, 33, 300])
def test_positions_pairs_and_neighbours_are_uniform(n: int) -> None:
    order, epochs = Shuffled(n, 5), 1500
    drawn = np.stack([order(epoch, np.arange(n)) for epoch in range(epochs)])
    tests = pair_tests(drawn)
    assert all(abs(z) < 4.5 for z in tests.values()), tests


def pair_tests(drawn: Any) -> dict[str, float]:
    """record at place, first pair of records, difference of neighbours: chi-square over epochs, each as a z."""
    epochs, n = drawn.shape
    place = np.zeros((n, n))
    for position in range(n):
        place[position] = np.bincount(drawn[:, position], minlength=n)
    pair = np.bincount(drawn[:, 0] * n + drawn[:, 1], minlength=n * n).reshape(n, n)[~np.eye(n, dtype=bool)]
    apart = np.bincount(((drawn[:, 1:] - drawn[:, :-1]) % n).ravel(), minlength=n)[1:]
    freedom = (n - 1) ** 2
    chi = ((place - epochs / n) ** 2 / (epochs / n)).sum()
    return {
        "place": float((chi - freedom) / np.sqrt(2 * freedom)),
        "pair": z_of_chi_square(pair, epochs / (n * (n - 1))),
        "apart": z_of_chi_square(apart, apart.sum() / (n - 1)),
    }


def test_the_pair_tests_see_a_rotation_and_accept_a_true_shuffle() -> None:
    """The control: a bijection that keeps neighbours together passes the place test and must fail the others."""
    rng = np.random.default_rng(0)
    rotated = np.stack([(np.arange(33) + rng.integers(33)) % 33 for _ in range(2000)])
    z = pair_tests(rotated)
    assert abs(z["place"]) < 8
    assert z["pair"] > 50
    assert z["apart"] > 50
    shuffled = np.stack([rng.permutation(33) for _ in range(2000)])
    assert all(abs(z) < 4.5 for z in pair_tests(shuffled).values())


def test_a_long_order_is_uncorrelated_with_its_positions_neighbours_and_other_epochs() -> None:
    n = 60_000
    order, place = Shuffled(n, 5), np.arange(n)
    first, second = order(0, place), order(1, place)
    scale = np.sqrt(n)
    for a, b in ((first, place), (first[1:], first[:-1]), (first, second), (first & 1, place & 1), (first & 1, second & 1)):
        assert abs(np.corrcoef(a, b)[0, 1]) * scale < 4.5
    assert np.corrcoef(np.sort(first), place)[0, 1] * scale > 100


def test_sequential_is_the_identity() -> None:
    assert np.array_equal(Sequential(9)(4, np.arange(9)), np.arange(9))
    assert len(Sequential().over(9, 0)) == 9
    assert len(Sequential(5).over(9, 0)) == 5


def test_open_values_are_filled_in_and_stated_ones_kept() -> None:
    assert (Shuffled().over(9, 4).records, Shuffled().over(9, 4).seed) == (9, 4)
    assert (Shuffled(5, 1).over(9, 4).records, Shuffled(5, 1).over(9, 4).seed) == (5, 1)


def test_an_order_without_a_length_says_so() -> None:
    with pytest.raises(DataError, match="does not know how many records"):
        len(Shuffled())
    with pytest.raises(DataError, match="shuffled.records: 0 is out of range"):
        Shuffled(0)
