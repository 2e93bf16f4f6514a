"""Windows are the slices of the series that NumPy takes, mix no groups, and scale by what the training part says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mapsto.core.errors import DataError
from mapsto.data import Arrays, Batches, Normalise, Split, Windows

COUNT = 40
SERIES = Arrays(
    day=np.arange(COUNT),
    load=np.arange(COUNT, dtype=np.float32) ** 1.5,
    weather=np.random.default_rng(0).standard_normal((COUNT, 2)),
    sensor=np.repeat([3, 1, 2], [15, 4, 21]),
)


def every(source: Any) -> Any:
    return source[np.arange(len(source))]


@pytest.mark.parametrize(("length", "horizon", "stride"), [(5, 1, 1), (3, 4, 2), (1, 1, 7), (39, 1, 1)])
def test_windows_are_slices_and_what_comes_next(length: int, horizon: int, stride: int) -> None:
    made = Windows(SERIES, length, ["load", "weather"], "load", horizon, stride)
    rows = np.concatenate([SERIES.fields["load"][:, None], SERIES.fields["weather"]], 1).astype(np.float32)
    slides = np.lib.stride_tricks.sliding_window_view(rows, length + horizon, axis=0).transpose(0, 2, 1)[::stride]
    found = every(made)
    assert np.array_equal(found["input"], slides[:, :length])
    assert np.array_equal(found["target"], slides[:, length, 0] if horizon == 1 else slides[:, length:, 0])
    assert made[np.array([len(made) - 1, 0])]["input"].tolist() == found["input"][[-1, 0]].tolist()
    assert made[np.zeros(0, np.int64)]["input"].shape == (0, length, 3)


def test_no_window_mixes_groups() -> None:
    made = Windows(SERIES, 4, "sensor", "sensor", groups="sensor")
    found = every(made)
    assert len(made) == (15 - 4) + (21 - 4)  # the group of 4 records has none
    assert (found["input"][:, :, 0] == found["target"][:, None]).all()
    assert made.notes() == ["windows: 1 groups have too few records for a window"]
    mixed = every(Windows(SERIES, 4, "sensor", "sensor"))
    assert (mixed["input"][:, :, 0] != mixed["target"][:, None]).any()  # the control


def test_windows_of_a_part_by_time_are_scaled_by_the_training_part_alone() -> None:
    train, valid = (
        Windows(Split(SERIES, part, 0.25, by="day"), 6, ["load", "weather"], "load") for part in ("rest", "held_out")
    )
    assert (len(train), len(valid)) == (30 - 6, 10 - 6)
    made = Batches(train, 8, transforms=[Normalise(axis=-1)]).fit()
    seen = np.concatenate([every(train)["input"]]).astype(np.float64)
    assert np.allclose(made.transforms[0].learned["mean"], seen.mean((0, 1)), rtol=1e-9)
    assert every(valid)["input"][..., 0].min() > every(train)["input"][..., 0].max()  # no window reaches across the cut
    assert Batches(valid, 4, transforms=made.transforms).batch(0)["input"][..., 0].mean() > 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 40}, "40 records and 1 after them do not fit into 40 records"),
        ({"length": 30, "groups": "sensor"}, "do not fit into 21 records, the most of one value of 'sensor'"),
        ({"length": 2, "fields": "laod"}, "no field 'laod'"),
        ({"length": 2, "target": "weather"}, "'weather' has 2 numbers a record"),
        ({"length": 0}, "windows.length: 0 is out of range"),
    ],
)
def test_what_does_not_fit_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        every(Windows(SERIES, **{"fields": "load", "target": "load", **arguments}))


def test_a_group_whose_records_lie_apart_is_an_error() -> None:
    rows = Arrays(input=np.arange(6.0), target=np.arange(6), place=np.array([1, 1, 2, 2, 1, 1]))
    with pytest.raises(DataError, match="records of place=1 do not lie together"):
        Windows(rows, 1, groups="place")
