"""What a source owes: a batch for any indices, whose records depend on their index alone."""

from __future__ import annotations

import numpy as np

import mapsto

MyName = mapsto.registry.get("source", "my_name")


def test_a_batch_has_one_row_an_index() -> None:
    batch = MyName(records=10)[np.array([3, 3, 9])]
    assert batch["input"].shape == (3, 2)
    assert batch["input"].dtype == np.float32
    assert batch["target"].tolist() == [1, 1, 1]


def test_records_do_not_depend_on_what_is_gathered_with_them() -> None:
    source = MyName(records=50)
    everything, chosen = source[np.arange(50)], np.array([41, 0, 7, 7])
    for name, values in source[chosen].items():
        np.testing.assert_array_equal(values, everything[name][chosen])


def test_points_lie_on_their_ring() -> None:
    batch = MyName(records=100, gap=5.0)[np.arange(100)]
    centres = np.stack([5.0 * (batch["target"] - 0.5), np.zeros(100)], axis=1)
    np.testing.assert_allclose(np.linalg.norm(batch["input"] - centres, axis=1), 1.0, rtol=1e-6)


def test_a_reader_sees_every_record_once() -> None:
    from mapsto.data.reader import Batches

    source = MyName(records=20)
    reader = Batches(source, batch_size=6, shuffle=True)
    seen = np.concatenate([reader.batch(i)["input"] for i in range(reader.batches_per_epoch)])
    everything = source[np.arange(20)]["input"]
    assert sorted(map(tuple, seen)) == sorted(map(tuple, everything))
    assert not np.array_equal(seen, everything)
