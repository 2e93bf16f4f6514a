"""What a reader owes: a pure mapping of positions to batches, every record once an epoch, shards that make up the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

import mapsto

MyName = mapsto.registry.get("reader", "my_name")


def reader(**options: Any) -> Any:
    return MyName({"input": np.arange(23)}, batch_size=5, **options)


def test_an_epoch_holds_every_record_once() -> None:
    made = reader(shuffle=True, seed=1)
    for epoch in range(3):
        positions = range(epoch * made.batches_per_epoch, (epoch + 1) * made.batches_per_epoch)
        seen = np.concatenate([made.batch(p)["input"] for p in positions])
        assert sorted(seen.tolist()) == list(range(23))


def test_batches_are_neighbours_and_epochs_differ() -> None:
    made = reader(shuffle=True, seed=1)
    firsts = [made.batch(p)["input"] for p in range(2 * made.batches_per_epoch)]
    assert all((np.diff(batch) == 1).all() for batch in firsts)
    assert [b[0] for b in firsts[:5]] != [b[0] for b in firsts[5:]]


def test_shards_make_up_the_batch() -> None:
    made = reader()
    parts = [made.batch(4, shard=s, shards=3)["input"] for s in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), made.batch(4)["input"])


def test_a_stream_from_the_middle_goes_on_as_one_from_the_start() -> None:
    made = reader(shuffle=True, seed=2)
    with made.stream(0, 9) as whole, made.stream(6, 9) as rest:
        expected = list(whole)[6:]
        for (position, batch), (there, wanted) in zip(rest, expected, strict=True):
            assert position == there
            np.testing.assert_array_equal(batch["input"], wanted["input"])


def test_evaluation_reads_in_order() -> None:
    made = reader(shuffle=True).sequential()
    assert np.concatenate([made.batch(p)["input"] for p in range(5)]).tolist() == list(range(23))
