"""The reader is a pure mapping from positions to batches; its streams start anywhere at the cost of one batch."""

from __future__ import annotations

import functools
import random
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import Counting, equal, noise

from mapsto.core.errors import DataError, MapstoError, SpecError
from mapsto.core.parts import Part, build, use
from mapsto.core.random import generator
from mapsto.data import Arrays, Batches, Sequential, Shuffled


def ids(reader: Any, epoch: int = 0, **shard: int) -> list[list[int]]:
    """The record ids of an epoch's batches."""
    per = reader.batches_per_epoch
    return [reader.batch(p, **shard)["id"].tolist() for p in range(epoch * per, (epoch + 1) * per)]


def flat(batches: list[list[int]]) -> list[int]:
    return [i for batch in batches for i in batch]


@settings(max_examples=60, deadline=None)
@given(
    records=st.integers(1, 200),
    batch=st.integers(1, 50),
    shards=st.integers(1, 5),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_each_record_once_an_epoch_in_any_number_of_shards(
    records: int, batch: int, shards: int, shuffle: bool, epoch: int
) -> None:
    reader = Batches(Counting(records), batch, shuffle=shuffle, seed=1)
    assert reader.batches_per_epoch == -(-records // batch)
    assert reader.records == records
    whole = ids(reader, epoch)
    assert sorted(flat(whole)) == list(range(records))
    assert [len(b) for b in whole[:-1]] == [batch] * (len(whole) - 1)
    parts = [ids(reader, epoch, shard=s, shards=shards) for s in range(shards)]
    for position, expected in enumerate(whole):
        pieces = [part[position] for part in parts]
        assert flat(pieces) == expected
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_epochs_differ_and_repeat_by_seed() -> None:
    reader = Batches(Counting(50), 8, shuffle=True, seed=3)
    assert ids(reader) != ids(reader, 1)
    assert ids(reader) == ids(Batches(Counting(50), 8, shuffle=True, seed=3))
    assert ids(reader) != ids(Batches(Counting(50), 8, shuffle=True, seed=4))
    assert ids(Batches(Counting(50), 8), 5) == ids(Batches(Counting(50), 8))
    assert [reader.epoch(p) for p in (0, 6, 7, 13, 14)] == [0, 0, 1, 1, 2]


def test_drop_last_leaves_out_only_the_smaller_batch() -> None:
    reader = Batches(Counting(50), 8, shuffle=True, drop_last=True)
    assert (reader.batches_per_epoch, reader.records) == (6, 48)
    assert [len(b) for b in ids(reader, 2)] == [8] * 6
    assert len(set(flat(ids(reader, 2)))) == 48
    assert Batches(Counting(48), 8, drop_last=True).batches_per_epoch == 6


def test_sequential_reads_each_record_once_in_the_sources_order() -> None:
    shuffled = Batches(Counting(50), 8, shuffle=True, drop_last=True, bucket_by="input", limit=45)
    before = ids(shuffled)
    plain = shuffled.sequential()
    assert (plain.records, plain.batches_per_epoch) == (45, 6)
    assert flat(ids(plain)) == list(range(45))
    assert ids(plain, 3) == ids(plain)
    assert ids(shuffled) == before


def test_limit_takes_the_first_records() -> None:
    reader = Batches(Counting(50), 8, shuffle=True, limit=11)
    assert sorted(flat(ids(reader))) == list(range(11))
    assert Batches(Counting(5), 8, limit=11).records == 5


def test_a_stream_gives_what_the_reader_gives_from_any_position() -> None:
    reader = Batches(Counting(23), 4, shuffle=True, transforms=[noise], seed=5)
    whole = [reader.batch(p) for p in range(20)]
    for start in range(20):
        fresh = Batches(Counting(23), 4, shuffle=True, transforms=[noise], seed=5)
        with fresh.stream(start, 20) as stream:
            got = list(stream)
        assert [p for p, _ in got] == list(range(start, 20))
        assert all(equal(b, whole[p]) for p, b in got)
    assert not equal(whole[0], whole[1])


def test_a_stream_without_end_goes_on_and_knows_its_position() -> None:
    with Batches(Counting(5), 2).stream() as stream:
        for position, batch in stream:
            assert stream.position == position + 1
            assert len(batch["id"]) == (1 if position % 3 == 2 else 2)
            if position == 10:
                break


@pytest.mark.parametrize("position", [10, 10**9, 10**15])
def test_starting_late_costs_what_starting_early_does(position: int) -> None:
    source = Counting(1000)
    reader = Batches(source, 10, shuffle=True)
    with reader.stream(position, position + 3) as stream:
        assert len(list(stream)) == 3
    assert source.gathered == [10, 10, 10]


def test_a_virtual_source_of_a_million_million_records() -> None:
    source = Counting(10**12)
    batch = Batches(source, 256, shuffle=True, seed=9).batch(12345)
    assert len(set(batch["id"].tolist())) == 256
    assert source.gathered == [256]


def test_reading_touches_no_global_random_stream() -> None:
    torch = pytest.importorskip("torch")
    numpy_before, torch_before, python_before = np.random.get_state()[1].tobytes(), torch.get_rng_state(), random.getstate()  # type: ignore[index,union-attr]
    reader = Batches(Counting(50), 8, shuffle=True, transforms=[noise], bucket_by="id")
    with reader.stream(0, 9) as stream:
        assert len(list(stream)) == 9
    assert np.random.get_state()[1].tobytes() == numpy_before  # type: ignore[index,union-attr]
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert random.getstate() == python_before


def test_order_chunks_do_not_change_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that do and do not divide a chunk, read forwards and backwards."""
    for size in (1, 3, 7, 100):
        expected = Shuffled(300, 2)
        reader = Batches(Counting(300), size, shuffle=True, seed=2)
        reader._chunk = 10
        per = reader.batches_per_epoch
        for position in [*range(2 * per), *reversed(range(2 * per))]:
            epoch, offset = divmod(position, per)
            places = np.arange(offset * size, min(offset * size + size, 300))
            assert np.array_equal(reader.batch(position)["id"], expected(epoch, places))


def test_one_reader_is_read_by_several_threads() -> None:
    reader = Batches(Counting(2000), 16, shuffle=True)
    reader._chunk = 64
    expected = [reader.indices(p).tolist() for p in range(200)]
    wrong: list[int] = []

    def read(start: int) -> None:
        for i in range(200):
            p = (start + i * 7) % 200
            if reader.indices(p).tolist() != expected[p]:
                wrong.append(p)

    threads = [threading.Thread(target=read, args=(i * 31,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_random_transforms_draw_by_seed_transform_position_and_shard() -> None:
    reader = Batches(Counting(12), 6, transforms=[noise, functools.partial(noise)], seed=8)
    assert np.array_equal(reader.batch(3)["noise"], generator(8, "transform", 1, 3, 0).random((6, 3)))
    assert np.array_equal(reader.batch(3, 1, 2)["noise"], generator(8, "transform", 1, 3, 1).random((3, 3)))
    draws = [reader.batch(p, s, 2)["noise"].tobytes() for p in range(3) for s in range(2)]
    assert len(set(draws)) == 6


def test_transforms_are_applied_in_turn_and_taken_in_any_form() -> None:
    def double(batch: dict[str, Any], by: int = 2) -> dict[str, Any]:
        return {**batch, "input": batch["input"] * by}

    def plus(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "input": batch["input"] + 1}

    data = {"input": np.arange(4)}
    assert Batches(data, 4, transforms=[double, plus]).batch(0)["input"].tolist() == [1, 3, 5, 7]
    assert Batches(data, 4, transforms=[plus, double]).batch(0)["input"].tolist() == [2, 4, 6, 8]
    assert Batches(data, 4, transforms=double).batch(0)["input"].tolist() == [0, 2, 4, 6]
    assert Batches(data, 4, transforms="scale").batch(0)["input"].dtype == np.float32


def test_built_from_a_spec_with_the_runs_seed() -> None:
    def shake(batch: dict[str, Any], rng: np.random.Generator, by: float = 1.0) -> dict[str, Any]:
        return {**batch, "input": batch["input"] + by * rng.random(len(batch["input"]))}

    part = use(
        "batches",
        source=use("arrays", input=np.arange(10)),
        batch_size=4,
        order="shuffled",
        transforms=[use("scale", factor=1.0), use(shake, by=0.0)],
    )
    reader = build(part, "reader", path="data.train", injected={"seed": 6, "steps_per_epoch": 1})
    assert reader.seed == 6
    expected = Shuffled(10, 6)(0, np.arange(4))
    assert np.array_equal(reader.batch(0)["input"], expected)
    with pytest.raises(SpecError, match=r"data.train.shufle.*did you mean 'shuffle'"):
        build(Part("batches", {"source": [1], "batch_size": 4, "shufle": True}), "reader", path="data.train")


class Reversed:
    """An order of a user's own, over the second half of the records only."""

    def __len__(self) -> int:
        return 5

    def __call__(self, epoch: int, positions: Any) -> Any:
        return 9 - positions


def test_an_order_of_ones_own_decides_the_length_of_an_epoch() -> None:
    reader = Batches(Counting(10), 2, order=Reversed())
    assert reader.records == 5
    assert ids(reader) == [[9, 8], [7, 6], [5]]


def test_an_order_by_name_or_with_its_own_seed() -> None:
    assert ids(Batches(Counting(10), 4, order="shuffled", seed=2)) == ids(Batches(Counting(10), 4, shuffle=True, seed=2))
    assert ids(Batches(Counting(10), 4, order=Shuffled(seed=3), seed=2)) == ids(Batches(Counting(10), 4, shuffle=True, seed=3))
    assert ids(Batches(Counting(10), 4, order=Sequential(6))) == [[0, 1, 2, 3], [4, 5]]


def test_torch_tensors_stay_tensors() -> None:
    torch = pytest.importorskip("torch")
    reader = Batches({"input": torch.arange(10).reshape(5, 2), "target": np.arange(5)}, 2)
    batch = reader.batch(1)
    assert torch.equal(batch["input"], torch.tensor([[4, 5], [6, 7]]))
    assert batch["target"].tolist() == [2, 3]


def test_closing_a_reader_closes_its_source() -> None:
    class Closing(Counting):
        closed = False

        def close(self) -> None:
            self.closed = True

    source = Closing(3)
    Batches(source, 1).close()
    assert source.closed
    Batches(Counting(3), 1).close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batches.batch_size: 0 is out of range: int of at least 1"),
        ({"batch_size": -3}, "batch_size: -3"),
        ({"batch_size": 2.5}, "batch_size: 2.5"),
        ({"batch_size": True}, "batch_size: True"),
        ({"limit": 0}, "limit: 0"),
        ({"window": 0}, "window: 0"),
        ({"workers": -1}, "workers: -1 .* at least 0"),
        ({"prefetch": 0}, "prefetch: 0"),
        ({"batch_size": 20, "drop_last": True}, "10 records are fewer than one batch of 20"),
        ({"shuffle": True, "order": "shuffled"}, "shuffle and order: say one of them"),
        ({"order": Reversed(), "limit": 3}, "limit: the order has a length of its own, 5, which 3 cannot change"),
        ({"order": 3}, "order: a int is not an order.*allowed: .*shuffled"),
        ({"transforms": [3]}, "transforms: a int cannot be called"),
        ({"source": []}, "list is empty: a source needs at least one record"),
        ({"source": iter([1])}, "cannot be addressed by record index"),
        ({"source": "file.txt"}, "'file.txt' is text; say which source reads it"),
        ({"source": (np.zeros(2), np.zeros(2))}, "a tuple of arrays does not name its fields"),
    ],
)
def test_bad_arguments_are_told(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"source": Counting(10), "batch_size": 4, **change}
    with pytest.raises(DataError, match=message):
        Batches(**arguments)


def test_a_transform_whose_signature_cannot_be_known_takes_no_generator() -> None:
    class Opaque:
        __signature__ = 3

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return batch

    assert Batches({"input": np.arange(3)}, 3, transforms=[Opaque()]).batch(0)["input"].tolist() == [0, 1, 2]


def test_bad_reads_are_told() -> None:
    reader = Batches(Counting(10), 4)
    with pytest.raises(DataError, match="position -1: positions start at 0"):
        reader.batch(-1)
    with pytest.raises(DataError, match="shard 2 of 2: shards are numbered 0 to 1"):
        reader.batch(0, 2, 2)
    with pytest.raises(DataError, match="order Reversed over Counting: record 9 is out of range; it has 8 records, 0 to 7"):
        Batches(Counting(8), 4, order=Reversed()).batch(0)
    with pytest.raises(MapstoError, match="did you mean 'shuffled'"):
        Batches(Counting(8), 4, order="shufled")
    with pytest.raises(DataError, match="arrays: record 9 is out of range"):
        Arrays(input=np.zeros(3))[np.array([9])]
