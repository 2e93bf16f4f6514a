"""The laws of orders, and that a reader takes this one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import mapsto
from mapsto.testing import laws_of

MyName = mapsto.registry.get("order", "my_name")


# Each law that its kind owes is a test of its own: `mapsto check order/my_name` prints them.
@laws_of("order/my_name")
def test_laws(law: Callable[[], None]) -> None:
    law()


def test_a_reader_takes_it() -> None:
    from mapsto.data import Batches

    reader = Batches({"input": np.arange(10)}, batch_size=4, order=MyName(stride=2), seed=3)
    seen = [reader.batch(i)["input"].tolist() for i in range(3)]
    assert seen == [[3, 4, 5, 6], [7, 8, 9, 0], [1, 2]]
