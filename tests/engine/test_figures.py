"""Figures as people read them."""

from __future__ import annotations

import math

import pytest

from mapsto.engine.figures import count, duration, number, share, short_time, size


@pytest.mark.parametrize(
    ("write", "value", "expected"),
    [
        (number, 0.12345, "0.1235"),
        (number, 0.0, "0"),
        (number, 12.0, "12"),
        (number, 12345.6, "12,346"),
        (number, 1.2e-5, "1.2e-05"),
        (number, 3.3e9, "3.300e+09"),
        (number, math.nan, "nan"),
        (number, -math.inf, "-inf"),
        (count, 950, "950"),
        (count, 999.9, "1k"),
        (count, 12_345, "12.3k"),
        (count, 1_250_000, "1.25M"),
        (count, 7.1e9, "7.1G"),
        (duration, 0.0, "0.0 s"),
        (duration, 3.21, "3.2 s"),
        (duration, 59.4, "59 s"),
        (duration, 59.6, "1:00"),
        (duration, 65, "1:05"),
        (duration, 7385, "2:03:05"),
        (duration, 86400 * 3 + 3600 * 4, "3 d 04:00"),
        (duration, math.nan, "?"),
        (short_time, 8.12e-4, "812 us"),
        (short_time, 3.41e-3, "3.41 ms"),
        (short_time, 1.2, "1.2 s"),
        (size, 812, "812 B"),
        (size, 1200, "1.2 kB"),
        (size, 34.5e6, "34.5 MB"),
        (size, 2e9, "2 GB"),
        (share, 0.034, "3 %"),
        (share, 0.004, "0.4 %"),
        (share, 0.0, "0 %"),
        (share, 1.0, "100 %"),
    ],
)
def test_figures(write, value, expected):
    assert write(value) == expected
