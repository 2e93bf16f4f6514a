"""The laws of metrics, and what this one tells of four records."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import mapsto
from mapsto.testing import laws_of

MyName = mapsto.registry.get("metric", "my_name")


# Each law that its kind owes is a test of its own: `mapsto check metric/my_name` prints them.
@laws_of("metric/my_name")
def test_laws(law: Callable[[], None]) -> None:
    law()


def test_it_counts_what_is_sure_and_right() -> None:
    probability = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.45, 0.55]])
    prediction = {"label": probability.argmax(1), "probability": probability}
    metric = MyName(sure=0.6)
    totals = metric.count(prediction, np.array([0, 1, 0, 1]), None)
    assert metric.finish(totals) == 0.5  # the first two: the third is wrong, the last is not sure
