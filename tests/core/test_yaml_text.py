from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.core.errors import SpecError
from mapsto.core.shown import shown
from mapsto.core.yaml_text import read_yaml, write_yaml

TRAPS = [
    "1e-3",
    "010",
    "no",
    "yes",
    "on",
    "12:30",
    "2024-01-01",
    "~",
    "null",
    "1_000",
    "0x1f",
    ".5",
    "1.",
    "true",
    "<<",
    "=",
    "- a",
    "a: b",
    "#",
    "",
    "\x85",
    "a\u2028b",
    "\ufeff",
    "\t",
    " a",
    "a\n",
]
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from(TRAPS)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers() | st.sampled_from(TRAPS), inner, max_size=4)
    ),
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("-2E+5", -2e5), ("1.5e3", 1500.0), (".5", 0.5), ("3.", 3.0), (".inf", math.inf), ("-.inf", -math.inf),
        ("42", 42), ("-7", -7), ("1_000", 1000), ("0x1f", 31), ("0o17", 15), ("0", 0),
        ("true", True), ("False", False), ("~", None), ("null", None), ("", None),
        ("no", "no"), ("on", "on"), ("y", "y"), ("010", "010"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("1e", "1e"),
        ("[1, a, {b: 2}]", [1, "a", {"b": 2}]), ("'1'", "1"),
    ],
)  # fmt: skip
def test_scalars_are_what_people_mean(text: str, value: Any) -> None:
    read = read_yaml(text)
    assert read == value
    assert type(read) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(read_yaml(".nan"))
    assert write_yaml({"a": math.nan}) == "a: .nan\n"


@given(trees)
def test_what_is_written_is_read_back(data: Any) -> None:
    def typed(value: Any) -> Any:
        if isinstance(value, dict):
            return {(type(k), k): typed(v) for k, v in value.items()}
        return [typed(v) for v in value] if isinstance(value, list) else (type(value), value)

    assert typed(read_yaml(write_yaml(data))) == typed(data)


def test_no_aliases_are_written() -> None:
    shared = [1]
    assert write_yaml({"a": shared, "b": shared}) == "a:\n- 1\nb:\n- 1\n"


def test_aliases_stand_for_a_bounded_number_of_values() -> None:
    def laughs(levels: int) -> str:
        return "a0: &a0 [x, x]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels))

    assert len(read_yaml(laughs(5))["a4"]) == 10
    with pytest.raises(SpecError, match=r"aliases stand for more than 100,000 values \(line 6, column"):
        read_yaml(laughs(60))
    assert len(read_yaml(f"[{', '.join(['1'] * 150_000)}]")) == 150_000  # what is written out is as long as it looks


def test_what_a_terminal_shows_of_it_is_read_back_too() -> None:
    text = shown(write_yaml({"name": "a\x1b[31mb\u202e"}))
    assert text == 'name: "a\\e[31mb\\u202e"\n'
    assert read_yaml(text) == {"name": "a\x1b[31mb\u202e"}


def test_anchors_and_merges_are_read() -> None:
    assert read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [1", "line 1, column 4"),
        ("a: 1\nb: 2\na: 3", "the key 'a' stands twice.*line 3, column 1"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: b: c", "mapping values are not allowed here"),
        ("? {a: 1}\n: 2", "found unhashable key"),
        ("a: &a {b: *a}", r"an alias stands for what it is a part of \(line 1, column 11\)"),
        ("[" * 100_000, "nested more than 64 levels deep"),
        ("\n".join(" " * i + "a:" for i in range(1000)), "nested more than 64 levels deep"),
        ("a: " + "9" * 10_000, "'99999.* is no int: Exceeds the limit"),
        ("a: 0x" + "f" * 10_000, "a number of too many digits"),
        ("a: !!int ''", "'' is no int"),
        ("a: !!timestamp 2024-01-01", "could not determine a constructor"),
        ('a: "\\ud800"', "half of a surrogate pair is no text"),
    ],
)
def test_what_cannot_be_read_says_where(text: str, reason: str) -> None:
    with pytest.raises(SpecError, match=f"(?s)this cannot be read as YAML: .*{reason}"):
        read_yaml(text)
