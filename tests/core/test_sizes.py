"""Sizes as people write them."""

from __future__ import annotations

import pytest

from mapsto.core.errors import SpecError
from mapsto.core.sizes import format_size, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80GB", 80 * 1000**3),
        ("80GiB", 80 * 1024**3),
        (" 1.5 tb ", 1_500_000_000_000),
        ("512kib", 512 * 1024),
        ("7B", 7),
        (".5MB", 500_000),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_rate_may_say_per_second() -> None:
    assert parse_rate("10GB/s") == parse_rate("10GB") == 10 * 1000**3


@pytest.mark.parametrize("text", ["", "GB", "80", "eighty GB", "80GBs", "-1GB", "0GB", "80 parsecs", "nanGB", "1e3GB"])
def test_what_is_no_size_says_what_is_allowed(text: str) -> None:
    with pytest.raises(SpecError, match=r"--memory: .* is no size above 0; .*80GB .*units being B, KB, .*PiB") as told:
        parse_size(text, "--memory")
    assert ("did you mean '80GB'?" in str(told.value)) == (text == "80")


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (79_900_000_000, "79.9 GB"), (999_600_000, "1 GB"), (123_400_000, "123 MB")],
)
def test_a_size_is_said_in_three_digits(size: int, said: str) -> None:
    assert format_size(size) == said
