"""The laws of sources, and what this one says of itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import mapsto
from mapsto.testing import laws_of

MyName = mapsto.registry.get("source", "my_name")


# Each law that its kind owes is a test of its own: `mapsto check source/my_name` prints them.
@laws_of("source/my_name")
def test_laws(law: Callable[[], None]) -> None:
    law()


def test_a_batch_has_one_row_an_index() -> None:
    batch = MyName(records=10)[np.array([3, 3, 9])]
    assert batch["input"].shape == (3, 2)
    assert batch["input"].dtype == np.float32
    assert batch["target"].tolist() == [1, 1, 1]


def test_points_lie_on_their_ring() -> None:
    batch = MyName(records=100, gap=5.0)[np.arange(100)]
    centres = np.stack([5.0 * (batch["target"] - 0.5), np.zeros(100)], axis=1)
    np.testing.assert_allclose(np.linalg.norm(batch["input"] - centres, axis=1), 1.0, rtol=1e-6)


def test_a_reader_sees_every_record_once() -> None:
    from mapsto.data import Batches

    source = MyName(records=20)
    reader = Batches(source, batch_size=6, shuffle=True)
    seen = np.concatenate([reader.batch(i)["input"] for i in range(reader.batches_per_epoch)])
    everything = source[np.arange(20)]["input"]
    assert sorted(map(tuple, seen)) == sorted(map(tuple, everything))
    assert not np.array_equal(seen, everything)
