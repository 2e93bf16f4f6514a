"""The reader alone, for anybody's loop: one epoch an iteration, resumed at any batch on any number of ranks."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from records import Counting, noise

import mapsto
from mapsto.core.errors import DataError
from mapsto.data import Batches, Loader, Stream


def reader(records: int = 13, **options: Any) -> Batches:
    return Batches(Counting(records), **{"batch_size": 4, "shuffle": True, "seed": 3, **options})


def ids(batches: Any) -> list[list[int]]:
    return [batch["id"].tolist() for batch in batches]


def run(loader: Loader, epochs: int) -> Iterator[Any]:
    """A loop as anybody writes it."""
    for epoch in range(loader.epoch, epochs):
        loader.set_epoch(epoch)
        yield from loader


def test_an_iteration_is_an_epoch_of_the_reader() -> None:
    loader = Loader(reader())
    assert len(loader) == 4
    for epoch in range(3):
        assert loader.epoch == epoch
        found = ids(loader)
        assert found == [reader().batch(p)["id"].tolist() for p in range(4 * epoch, 4 * epoch + 4)]
        assert sorted(i for batch in found for i in batch) == list(range(13))
    assert loader.position == 12


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loop_goes_on_behind_the_batch_that_was_given_out_last(workers: int) -> None:
    whole = ids(run(Loader(reader()), 3))
    for taken in (1, 4, 6, 11) if workers == 0 else (6,):
        first = Loader(reader(workers=workers))
        seen = ids(islice(run(first, 3), taken))
        state = json.loads(json.dumps(first.state_dict()))
        first.close()
        assert state["position"] == taken  # and not what workers had read ahead
        second = Loader(reader())
        second.load_state_dict(state)
        assert seen + ids(run(second, 3)) == whole


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2), (2, 4)])
def test_it_goes_on_on_another_number_of_ranks(before: int, after: int) -> None:
    """With transforms that draw random numbers too, where micro-shards are stated."""

    def ranks(count: int) -> list[Loader]:
        made = [reader(14, transforms=[noise], batch_size=8) for _ in range(count)]
        return [Loader(r, rank=i, world_size=count, micro_shards=4) for i, r in enumerate(made)]

    def steps(loaders: list[Loader], epochs: int, count: int | None = None) -> list[Any]:
        """What all ranks together were given at each step."""
        parts = zip(*(run(loader, epochs) for loader in loaders), strict=True)
        return [{n: np.concatenate([p[n] for p in part]) for n in part[0]} for part in islice(parts, count)]

    whole = steps(ranks(1), 3)
    first = ranks(before)
    found = steps(first, 3, 3)
    states = [loader.state_dict() for loader in first]
    assert all(state == states[0] for state in states)
    second = ranks(after)
    for loader in second:
        loader.load_state_dict(states[0])
    found += steps(second, 3)
    assert len(found) == len(whole) == 6
    assert all(
        np.array_equal(a["id"], b["id"]) and np.array_equal(a["noise"], b["noise"]) for a, b in zip(found, whole, strict=True)
    )
    other = Loader(reader(14, transforms=[noise], batch_size=8), rank=0, world_size=2)
    with pytest.raises(
        DataError, match="cut into 4 micro-shards, by which the transforms draw, and here they are 2: say micro"
    ):
        other.load_state_dict(states[0])
    plain = Loader(reader(14, batch_size=8), rank=0, world_size=2)
    plain.load_state_dict(states[0])  # nothing is drawn, so that nothing depends on the parts
    assert plain.position == 3


def test_an_epoch_that_was_left_early_is_followed_by_the_next() -> None:
    """As with a DataLoader; a loop over the first batches of each epoch never sees the same ones again and again."""
    loader = Loader(reader())
    for epoch in range(3):
        assert ids(islice(loader, 2)) == [reader().batch(4 * epoch + i)["id"].tolist() for i in range(2)]
    loader.set_epoch(1)
    assert ids(loader) == [reader().batch(4 + i)["id"].tolist() for i in range(4)]


def test_the_epoch_may_be_set_after_the_iterator_is_made() -> None:
    loader = Loader(reader())
    iterator = iter(loader)
    loader.set_epoch(2)
    assert next(iterator)["id"].tolist() == reader().batch(8)["id"].tolist()
    again = Loader(reader())
    again.load_state_dict(loader.state_dict())
    iterator = iter(again)
    again.set_epoch(2)
    assert next(iterator)["id"].tolist() == reader().batch(9)["id"].tolist()  # the place within it is kept


def test_a_state_behind_the_last_batch_of_an_epoch_leaves_nothing_of_it() -> None:
    """A loop that saves its epoch within the epoch goes on with it, whether or not a batch is left."""
    loader = Loader(reader())
    list(islice(loader, 4))
    again = Loader(reader())
    again.load_state_dict(loader.state_dict())
    for epoch, left in ((0, []), (1, [reader().batch(4 + i)["id"].tolist() for i in range(4)])):
        again.set_epoch(epoch)
        assert ids(again) == left
    again.set_epoch(0)
    assert ids(again) == [reader().batch(i)["id"].tolist() for i in range(4)]  # and an epoch can be read again


def test_two_iterations_at_a_time_are_told() -> None:
    loader = Loader(reader())
    first, second = iter(loader), iter(loader)
    next(first)
    next(second)
    with pytest.raises(DataError, match="another iteration has begun; for two at a time make two loaders"):
        next(first)


def test_the_rank_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = Loader(reader(16))
    assert next(iter(loader))["id"].tolist() == reader(16).batch(0, 1, 2)["id"].tolist()
    assert (loader.batch_size, len(loader.dataset)) == (2, 16)


def test_batches_can_be_skipped_by_position() -> None:
    """As `skip_first_batches` of accelerate does: by the sampler's items, each of which the dataset holds."""
    loader = Loader(reader())
    loader.set_epoch(1)
    skipped = [loader.collate_fn([loader.dataset[p] for p in item]) for item in list(loader.batch_sampler)[2:]]
    assert ids(skipped) == [reader().batch(p)["id"].tolist() for p in (6, 7)]
    loader.sampler.set_epoch(2)
    assert (loader.epoch, len(loader.sampler)) == (2, 4)


def test_what_is_given_out_can_be_converted_and_the_loader_copied() -> None:
    loader = Loader(reader(), convert=size_of)
    assert list(loader) == [4, 4, 4, 1]
    again = pickle.loads(pickle.dumps(loader))
    assert (again.position, list(again)) == (4, [4, 4, 4, 1])


def size_of(batch: Any) -> int:
    return len(batch["id"])


@mapsto.reader
class Ones:
    """A reader of one's own, as the docs have it."""

    records, batches_per_epoch = 6, 3

    def epoch(self, position: int) -> int:
        return position // 3

    def batch(self, position: int, shard: int = 0, shards: int = 1) -> Any:
        return {"id": np.array([2 * position, 2 * position + 1])[2 * shard // shards : 2 * (shard + 1) // shards]}

    def stream(self, start: int = 0, stop: int | None = None, **which: Any) -> Any:
        return Stream(self, start, stop, **which)


def test_any_reader_will_do() -> None:
    assert ids(Loader(Ones())) == [[0, 1], [2, 3], [4, 5]]
    assert ids(Loader(Ones(), rank=1, world_size=2)) == [[1], [3], [5]]
    assert Loader(Ones()).batch_size is None
    with pytest.raises(DataError, match="this rank has no record of a batch"):
        list(Loader(Ones(), rank=0, world_size=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0, "world_size": 2}, "the last batch of an epoch has 1 record for 2 ranks: say drop_last=True"),
        ({"rank": 0}, "rank and world_size go together"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2: ranks are numbered 0 to 1"),
        ({"rank": 0, "world_size": 2, "micro_shards": 3}, "3 micro-shards cannot be shared equally by 2 ranks"),
    ],
)
def test_ranks_that_do_not_fit_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        next(iter(Loader(reader(), **options)))


def test_states_that_do_not_fit_are_told() -> None:
    state = Loader(reader()).state_dict()
    with pytest.raises(DataError, match="a reader with 13 records, and this one has 14"):
        Loader(reader(14)).load_state_dict(state)
    with pytest.raises(DataError, match="a reader with 4 batches an epoch, and this one has 3"):
        Loader(reader(batch_size=5)).load_state_dict(state)
    for other in ({"seed": 4}, {"shuffle": False}):
        with pytest.raises(DataError, match="behind batch 0 other records would come .* the same seed, order and batch_size"):
            Loader(reader(**other)).load_state_dict(state)
    with pytest.raises(DataError, match="no state of a loader: it holds step, not batches_per_epoch"):
        Loader(reader()).load_state_dict({"step": 1})
    with pytest.raises(DataError, match="list is no reader: it has no stream, batches_per_epoch, records"):
        Loader([1])
