"""JSON that is strict when written, and any bytes when read."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.core.json_text import DEEPEST, read_json, write_json


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_number_that_is_not_finite_is_a_word_that_float_reads() -> None:
    words = strict(write_json({"a": [math.nan, math.inf, -math.inf, 1.5], "b": {"c": math.nan}}))
    assert words == {"a": ["NaN", "Infinity", "-Infinity", 1.5], "b": {"c": "NaN"}}
    assert [float(word) for word in words["a"][1:]] == [math.inf, -math.inf, 1.5]
    assert math.isnan(float(words["a"][0]))


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.floats(), inner, max_size=3),
))  # fmt: skip
def test_whatever_is_written_is_strict(data: Any) -> None:
    strict(write_json(data))
    assert "\x1b" not in write_json(data, ensure_ascii=False)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xfe", r"it is not UTF-8 text \(byte 0\)"),
        (b"", r"it is no JSON \(line 1, column 1: Expecting value\)"),
        (b'{"a": 1, "a": 2}', "the key 'a' stands twice"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "it holds a number of too many digits"),
        (b"[" * 100_000, f"it is nested more than {DEEPEST} levels deep"),
        (b'{"a":' * 100_000, f"it is nested more than {DEEPEST} levels deep"),
        (b'["' + b"[" * 300, r"it is no JSON \(line 1, column 2: Unterminated string"),
    ],
)
def test_what_cannot_be_read_says_why_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}") as error:
        read_json(data)
    assert "\n" not in str(error.value)


def test_brackets_in_strings_and_many_beside_each_other_are_not_deep() -> None:
    data = {"a": "[" * 1000, 'b"\\': [[]] * 1000}
    assert read_json(json.dumps(data)) == data
    deep = "[" * DEEPEST + "]" * DEEPEST
    assert read_json(deep)
