"""The laws of transforms, and what this one says of itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import mapsto
from mapsto.testing import laws_of

my_name = mapsto.registry.get("transform", "my_name")


# Each law that its kind owes is a test of its own: `mapsto check transform/my_name` prints them.
@laws_of("transform/my_name")
def test_laws(law: Callable[[], None]) -> None:
    law()


def batch() -> dict[str, np.ndarray]:
    return {"input": np.zeros((500, 4), np.float32), "target": np.arange(500)}


def test_noise_has_the_stated_scale() -> None:
    found = my_name(batch(), rng=np.random.default_rng(0), scale=0.5)["input"]
    assert found.dtype == np.float32
    assert abs(found.std() - 0.5) < 0.02


def test_a_reader_gives_it_the_same_noise_at_the_same_position() -> None:
    from mapsto.data import Batches

    first, again = (Batches(batch(), batch_size=100, transforms=[my_name], seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.batch(3)["input"], again.batch(3)["input"])
    assert not np.array_equal(first.batch(3)["input"], first.batch(4)["input"])
