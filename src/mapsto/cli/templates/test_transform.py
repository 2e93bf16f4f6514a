"""What a transform owes: the same batch for the same generator, and nothing changed in place."""

from __future__ import annotations

import numpy as np

import mapsto

my_name = mapsto.registry.get("transform", "my_name")


def batch() -> dict[str, np.ndarray]:
    return {"input": np.zeros((500, 4), np.float32), "target": np.arange(500)}


def test_noise_has_the_stated_scale() -> None:
    found = my_name(batch(), rng=np.random.default_rng(0), scale=0.5)["input"]
    assert found.dtype == np.float32
    assert abs(found.std() - 0.5) < 0.02


def test_what_was_given_stays_as_it_was() -> None:
    given = batch()
    found = my_name(given, rng=np.random.default_rng(0))
    assert not given["input"].any()
    assert found["target"] is given["target"]


def test_equal_generators_give_equal_batches() -> None:
    first, again, other = (my_name(batch(), rng=np.random.default_rng(seed))["input"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_reader_gives_it_the_same_noise_at_the_same_position() -> None:
    from mapsto.data.reader import Batches

    first, again = (Batches(batch(), batch_size=100, transforms=[my_name], seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.batch(3)["input"], again.batch(3)["input"])
    assert not np.array_equal(first.batch(3)["input"], first.batch(4)["input"])
