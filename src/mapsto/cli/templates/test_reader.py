"""The laws of readers, and what this one says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import mapsto
from mapsto.testing import laws_of

MyName = mapsto.registry.get("reader", "my_name")


# Each law that its kind owes is a test of its own: `mapsto check reader/my_name` prints them.
@laws_of("reader/my_name")
def test_laws(law: Callable[[], None]) -> None:
    law()


def reader(**options: Any) -> Any:
    return MyName({"input": np.arange(23)}, batch_size=5, **options)


def test_batches_are_neighbours_and_epochs_differ() -> None:
    made = reader(shuffle=True, seed=1)
    firsts = [made.batch(p)["input"] for p in range(2 * made.batches_per_epoch)]
    assert all((np.diff(batch) == 1).all() for batch in firsts)
    assert [b[0] for b in firsts[:5]] != [b[0] for b in firsts[5:]]


def test_evaluation_reads_in_order() -> None:
    made = reader(shuffle=True).sequential()
    assert np.concatenate([made.batch(p)["input"] for p in range(5)]).tolist() == list(range(23))
