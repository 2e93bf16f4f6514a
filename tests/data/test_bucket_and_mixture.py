"""Batches of similar length, and several sources in exact proportions, both by arithmetic on the position alone."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import Counting

from mapsto.core.errors import DataError
from mapsto.data import Batches, Bucketed, Concatenated, Interleaved, Items, Mixture, Shuffled


class Texts:
    """Texts whose lengths follow from their index, with a count of what was read to know them."""

    vectorised = True

    def __init__(self, records: int) -> None:
        self.sizes = np.random.default_rng(0).geometric(0.03, records)
        self.read = 0

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, indices: Any) -> dict[str, Any]:
        self.read += len(indices)
        sizes = self.sizes[indices]
        return {"id": indices, "input": ["x" * n for n in sizes.tolist()], "size": sizes, "image": np.zeros((len(indices), 2))}


def padding(reader: Any) -> float:
    """The share of padding if each batch were padded to its longest record."""
    batches = [[len(t) for t in reader.batch(p)["input"]] for p in range(reader.batches_per_epoch)]
    return 1 - sum(map(sum, batches)) / sum(max(b) * len(b) for b in batches)


@settings(max_examples=60, deadline=None)
@given(
    records=st.integers(1, 300),
    size=st.integers(1, 20),
    window=st.integers(1, 12),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_bucketing_is_a_permutation_of_each_window(records: int, size: int, window: int, epoch: int, shuffle: bool) -> None:
    source = Texts(records)
    plain = Batches(source, size, shuffle=shuffle, seed=2)
    reader = Batches(source, size, shuffle=shuffle, bucket_by="input", window=window, seed=2)
    per = reader.batches_per_epoch
    ids = [reader.batch(epoch * per + p)["id"] for p in range(per)]
    assert [len(b) for b in ids[:-1]] == [size] * (per - 1)
    for start in range(0, per, window):
        bucketed = np.concatenate(ids[start : start + window])
        original = np.concatenate([plain.batch(epoch * per + p)["id"] for p in range(start, min(start + window, per))])
        assert sorted(bucketed.tolist()) == sorted(original.tolist())


def test_batches_hold_similar_lengths_in_no_order_of_length() -> None:
    source = Texts(4000)
    bucketed = Batches(source, 16, shuffle=True, bucket_by="input", window=50)
    assert padding(bucketed) < 0.1
    assert padding(Batches(source, 16, shuffle=True)) > 0.5
    longest = [max(map(len, bucketed.batch(p)["input"])) for p in range(250)]
    assert abs(np.corrcoef(longest, np.arange(250))[0, 1]) < 0.25


def test_the_smaller_last_batch_is_of_any_length() -> None:
    means = []
    for epoch in range(40):
        reader = Batches(Texts(101), 10, shuffle=True, bucket_by="input", seed=1)
        batch = reader.batch(epoch * 11 + 10)
        assert len(batch["id"]) == 1
        means.append(len(batch["input"][0]))
    assert len(set(means)) > 20


def test_a_window_is_read_once_and_only_where_needed() -> None:
    source = Texts(4000)
    reader = Batches(source, 10, shuffle=True, bucket_by="input", window=20)
    source.read = 0
    position = 10**9 * reader.batches_per_epoch + 40
    for p in range(position, position + 20):
        reader.batch(p)
    assert source.read == 200 + 200  # the window's lengths, and its batches
    forwards = [reader.batch(p)["id"].tolist() for p in range(60)]
    assert [reader.batch(p)["id"].tolist() for p in reversed(range(60))] == forwards[::-1]
    again = pickle.loads(pickle.dumps(reader))
    assert [again.batch(p)["id"].tolist() for p in range(60)] == forwards


def test_lengths_by_function_by_number_field_and_by_source() -> None:
    by_text = Batches(Texts(200), 8, shuffle=True, bucket_by="input")
    by_size = Batches(Texts(200), 8, shuffle=True, bucket_by="size")
    by_function = Batches(Texts(200), 8, shuffle=True, bucket_by=lambda batch: [len(t) for t in batch["input"]])

    class Knowing(Texts):
        def lengths(self, field: str, indices: Any) -> Any:
            return self.sizes[indices]

    source = Knowing(200)
    knowing = Batches(source, 8, shuffle=True, bucket_by="input")
    expected = by_text.batch(3)["id"].tolist()
    source.read = 0
    for reader in (by_size, by_function, knowing):
        assert reader.batch(3)["id"].tolist() == expected
    assert source.read == 8


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("imput", "bucket_by: the source has no field 'imput'; allowed: id, image, input, size; did you mean 'input'"),
        ("image", "field 'image' is a float64 array of shape .* no length to sort by"),
        (3, r"batches.bucket_by: 3 is a int, and str \| collections.abc.Callable.* is wanted"),
        (lambda batch: [1], "gave .* lengths for a batch of 50 records"),
    ],
)
def test_wrong_lengths_are_told(by: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Batches(Texts(50), 8, bucket_by=by).batch(0)


def test_records_without_a_length_are_told() -> None:
    with pytest.raises(DataError, match="field 'input' holds int values, which have no length"):
        Batches([{"input": None}, {"input": 3}][1:] * 2 + [{"input": None}], 2, bucket_by="input").batch(0)


# -- mixtures ------------------------------------------------------------------------------------------------------------
def owners(reader: Any, batches: int) -> list[int]:
    return [i // 1000 for p in range(batches) for i in reader.batch(p)["input"].tolist()]


def three() -> list[dict[str, Any]]:
    return [{"input": k * 1000 + np.arange(n)} for k, n in enumerate((50, 7, 23))]


def test_proportions_are_exact_in_each_block() -> None:
    reader = Mixture(three(), (5, 2, 3), 10)
    got = owners(reader, 30)
    for start in range(0, 300, 10):
        assert Counter(got[start : start + 10]) == {0: 5, 1: 2, 2: 3}
    prefix = np.cumsum([o == 0 for o in got]) - 0.5 * np.arange(1, 301)
    assert np.abs(prefix).max() <= 1  # alternating, not in runs


def test_each_source_goes_round_by_itself_across_the_epochs_of_the_mixture() -> None:
    reader = Mixture(three(), (0.5, 0.2, 0.3), 10, records=30, seed=3)
    assert (reader.records, reader.batches_per_epoch) == (30, 3)
    drawn: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for p in range(70):
        for value in reader.batch(p)["input"].tolist():
            drawn[value // 1000].append(value % 1000)
    for owner, size in enumerate((50, 7, 23)):
        rounds = [drawn[owner][i : i + size] for i in range(0, len(drawn[owner]) - size + 1, size)]
        assert len(rounds) >= 3
        assert all(sorted(r) == list(range(size)) for r in rounds)
        assert rounds[0] != rounds[1]


def test_a_mixture_resumes_anywhere_and_depends_on_its_seed() -> None:
    whole = [Mixture(three(), (5, 2, 3), 8, seed=1).batch(p)["input"].tolist() for p in range(40)]
    for start in (0, 7, 39):
        with Mixture(three(), (5, 2, 3), 8, seed=1).stream(start, 40) as stream:
            assert [b["input"].tolist() for _, b in stream] == whole[start:]
    assert whole != [Mixture(three(), (5, 2, 3), 8, seed=2).batch(p)["input"].tolist() for p in range(40)]
    late = Mixture([Counting(50), Counting(10**9)], (1, 3), 8).batch(10**12)
    assert len(late["id"]) == 8


def test_unshuffled_and_weightless_sources_and_mappings() -> None:
    reader = Mixture({"a": three()[0], "b": three()[1]}, {"b": 1, "a": 2}, 6, shuffle=False)
    assert reader.batch(0)["input"].tolist() == [0, 1000, 1, 2, 1001, 3]
    assert set(owners(Mixture(three(), (1, 0, 1), 10), 8)) == {0, 2}


@pytest.mark.parametrize("weights", [(1e-9, 1.0), (60_001, 99_991), (2 / 3, 1 / 3)])
def test_weights_of_any_ratio_are_kept_to_a_part_in_65536(weights: tuple[float, float]) -> None:
    order = Interleaved((10, 10), weights)
    assert sum(order.shares) <= 1 << 16
    for share, weight in zip(order.shares, weights, strict=True):
        assert abs(share / sum(order.shares) - weight / sum(weights)) <= 1 / (1 << 16)


def test_a_mixture_of_texts_is_bucketed_too() -> None:
    reader = Mixture([Texts(300), Texts(200)], (1, 1), 10, bucket_by="input", window=20)
    assert isinstance(reader.order, Bucketed)
    assert padding(reader) < 0.25


@pytest.mark.parametrize(
    ("sources", "weights", "message"),
    [
        (three(), (1, 2), "weights: 2 weights were given for 3 sources"),
        (three(), (1, 2, -1), "must be finite, not negative, and not all zero"),
        (three(), (0, 0, 0), "not all zero"),
        (three(), (1, float("nan"), 1), "finite"),
        ({"news": three()[0]}, {"nws": 1}, "weights: 'nws' has no counterpart; allowed: news; did you mean 'news'|'news'"),
        ({"news": three()[0]}, (1,), "give two lists, or two mappings"),
        ([], (), "concatenated: no source was given"),
        (
            [{"input": np.arange(3)}, {"imput": np.arange(3)}],
            (1, 1),
            "source . has no field '(input|imput)', which source . has",
        ),
    ],
)
def test_mixtures_that_do_not_match_are_told(sources: Any, weights: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Mixture(sources, weights, 4)


def test_an_empty_epoch_is_told() -> None:
    with pytest.raises(DataError, match="mixture.records: 0 is out of range"):
        Mixture(three(), (1, 1, 1), 4, records=0)


def test_concatenated_joins_arrays_lists_and_tensors_in_the_order_asked_for() -> None:
    torch = pytest.importorskip("torch")
    one = {"a": np.arange(3), "t": ["x", "y", "z"], "s": torch.arange(3)}
    two = {"a": np.arange(10, 12, dtype=np.float32), "t": ["u", "v"], "s": torch.arange(10, 12)}
    source = Concatenated([one, two])
    assert len(source) == 5
    batch = source[np.array([4, 0, 3, 2, 0])]
    assert batch["a"].tolist() == [11, 0, 10, 2, 0]
    assert batch["t"] == ["v", "x", "u", "z", "x"]
    assert batch["s"].tolist() == [11, 0, 10, 2, 0]
    assert source[np.array([1])]["t"] == ["y"]
    assert source[np.array([], np.int64)]["t"] == []
    assert source.lengths("t", np.array([4, 0])).tolist() == [1, 1]
    with pytest.raises(DataError, match="record 5 is out of range"):
        source[np.array([5])]
    with pytest.raises(DataError, match="field 'a' has records of different shapes"):
        Concatenated([{"a": np.zeros((2, 3))}, {"a": np.zeros((2, 4))}])[np.array([0, 3])]


def test_the_types_of_concatenated_sources_are_those_of_all_whatever_a_batch_is_of() -> None:
    source = Concatenated([{"a": np.arange(3)}, {"a": np.ones(2, np.float32)}, {"a": np.zeros(1, np.float32)}])
    for indices in ([0], [3], [0, 4], []):
        assert source[np.array(indices, np.int64)]["a"].dtype == np.float64
    lists = Concatenated([{"a": [[1.0], [2.0]]}, Items([np.ones(1), np.ones(2)], fields=["a"])])
    assert all(isinstance(lists[np.array(i)]["a"], list) for i in ([0], [2], [1, 3]))
    with pytest.raises(DataError, match="field 'a' holds a whole number that float64, the type of all sources, does not keep"):
        Concatenated([{"a": np.array([2**53 + 1])}, {"a": np.ones(1)}])[np.array([0])]


def test_concatenated_closes_what_can_be_closed() -> None:
    closed = []

    class Closing(Counting):
        def close(self) -> None:
            closed.append(self)

    Concatenated([Closing(3), Counting(3), Closing(2)]).close()
    assert len(closed) == 2


def test_interleaved_and_bucketed_are_orders_by_themselves() -> None:
    assert len(Interleaved((4, 6), (1, 1))) == 10
    order = Bucketed(Shuffled(20, 1), Texts(20), "input", 5, window=2)
    assert sorted(order(3, np.arange(20)).tolist()) == list(range(20))
