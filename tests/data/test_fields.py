"""A field has one type in every batch: settled once, or said; and what it cannot hold is told with its place."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import assert_splits_agree, compressed, equal, kinds

from mapsto.core.errors import DataError
from mapsto.data import Items, JsonLines, TextLines


def json_file(folder: Path, *rows: Any) -> Path:
    path = folder / "a.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(width=32), st.integers(0, 3), st.just(0.5))
values = st.one_of(
    numbers,
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.lists(st.integers(0, 9), max_size=3),
    st.lists(st.one_of(st.integers(0, 9), st.just(0.5)), min_size=2, max_size=2),
    st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=1, max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.fixed_dictionaries({"x": values, "y": numbers}), min_size=1, max_size=7))
def test_any_split_of_json_lines_gives_the_types_and_values_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    source = JsonLines(json_file(tmp_path_factory.mktemp("json"), *rows))
    assert_splits_agree(source)
    for batch in (source[np.arange(len(rows))], Items(rows)[np.arange(len(rows))]):
        for name, got in batch.items():
            for row, found in zip(rows, got, strict=True):
                plain = found.tolist() if isinstance(found, (np.ndarray, np.generic)) else found
                if row[name] is None:
                    assert plain is None or np.isnan(plain)
                else:
                    want = np.array(row[name], got.dtype).tolist() if hasattr(got, "dtype") else row[name]
                    assert plain == want or np.array_equal(np.float32(plain), np.float32(want), equal_nan=True)


@pytest.mark.parametrize(
    ("rows", "dtype"),
    [
        ([1, 2], "int64"),
        ([2**62 + 1, 3], "int64"),
        ([1, 2.5], "float32"),
        ([2.5, 2**24 + 1], "float64"),
        ([0.5, 1e300], "float64"),
        ([0.5, 1e-300], "float64"),
        ([0.5, None], "float32"),
        ([0.5, float("nan"), float("inf")], "float32"),
        ([True, False], "bool"),
        ([[1, 2], [3, 0.5]], "float32"),
    ],
)
def test_numbers_have_the_type_that_holds_all_of_them(tmp_path: Path, rows: list[Any], dtype: str) -> None:
    for source in (JsonLines(json_file(tmp_path, *({"x": v} for v in rows))), Items([{"x": v} for v in rows])):
        assert source[np.arange(len(rows))]["x"].dtype == dtype
        assert source[np.array([0])]["x"].dtype == dtype
        assert_splits_agree(pickle.loads(pickle.dumps(source)))


@pytest.mark.parametrize("rows", [[1, None], [True, 1], [1, "a"], [[1], 1], [[[1, 2]], [[1], [2]], "x"], [{"a": 1}, None]])
def test_values_without_a_common_type_stay_as_they_are(tmp_path: Path, rows: list[Any]) -> None:
    source = JsonLines(json_file(tmp_path, *({"x": v} for v in rows)))
    assert source[np.arange(len(rows))] == {"x": rows}
    assert source[np.array([0])] == {"x": rows[:1]}


@pytest.mark.parametrize(
    ("rows", "said", "message"),
    [
        (
            ['{"x": 1}', '{"x": 9223372036854775808}'],
            {},
            "a.jsonl:2: field 'x' holds a whole number beyond int64; say its type",
        ),
        (
            ['{"x": 9007199254740993}', '{"x": 0.5}'],
            {},
            "a.jsonl:2: field 'x' holds a whole number beyond 2^53 among fractions",
        ),
        (['{"x": 1}', "", '{"x": null}'], {"fields": ["x"]}, "a.jsonl:3: field 'x' is int64 and lacks a value here: say what"),
        (['{"x": 1}', '{"x": null}'], {"types": {"x": "int32"}}, "a.jsonl:2: field 'x' is int32 and lacks a value here"),
        (['{"x": 1}', '{"x": 1, "y": 2}'], {}, "a.jsonl:2: the key 'y' is not in the first object: name the fields to keep"),
        (['{"x": 1, "x": 2}'], {}, "a.jsonl:1: this JSON cannot be read: the key 'x' stands twice in one object"),
        (['{"x": ' + "[" * 100_000], {}, "a.jsonl:1: this JSON is nested too deeply"),
        (['{"x": ' + "9" * 10_000 + "}"], {}, "a.jsonl:1: this JSON cannot be read: Exceeds the limit"),
        (['{"x": 1}'], {"types": {"y": "int8"}}, "types: there is no field 'y'; allowed: x"),
        (['{"x": 1}'], {"types": {"x": "whole"}}, "types: 'whole', for field 'x', is no type; write text"),
        (['{"x": 300}'], {"types": {"x": "int8"}}, "a.jsonl:1: field 'x' holds numbers that are not int8"),
        (['{"x": "a"}'], {"types": {"x": "int8"}}, "a.jsonl:1: field 'x' holds what is not int8"),
        (['{"x": 1}'], {"encoding": "utf8000"}, "'utf8000' is no encoding of text"),
    ],
)
def test_what_has_no_type_is_told_with_file_and_line(tmp_path: Path, rows: Any, said: Any, message: str) -> None:
    def read() -> None:
        JsonLines(json_file(tmp_path, *rows), **said)[np.array([0])]

    with pytest.raises(DataError, match=message.replace("^", r"\^")):
        read()


def test_types_and_what_stands_for_missing_values_can_be_said(tmp_path: Path) -> None:
    path = json_file(
        tmp_path, {"x": 1, "y": None, "z": [1, 2], "day": "2024-02-29"}, {"x": 2**70, "y": 3, "z": [], "day": "2025-01-01"}
    )
    source = JsonLines(path, types={"x": "float64", "y": "int32", "z": "uint8", "day": "datetime64[D]"}, missing={"y": -1})
    batch = source[np.arange(2)]
    assert batch["x"].tolist() == [1.0, 2.0**70]
    assert batch["y"].tolist() == [-1, 3]
    assert batch["y"].dtype == np.int32
    assert [z.dtype for z in batch["z"]] == [np.uint8] * 2
    assert batch["day"].astype(object)[1].year == 2025
    assert JsonLines(path, types={"x": "text"})[np.arange(2)]["x"] == [1, 2**70]
    assert_splits_agree(source)


class Lazy:
    """Records that are made when they are asked for."""

    def __init__(self, make: Any, count: int = 1000) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        return self.make(range(self.count)[i])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i: {"x": 0.5 if i == 7 else i}, "items: record 7: field 'x' holds numbers that are not int64"),
        (lambda i: {"x": None if i == 7 else i}, "items: record 7: field 'x' holds what is not int64"),
        (
            lambda i: {"x": [1] * (2 if i == 7 else 3)},
            "items: record 7: field 'x' has records of shape .2,., and of .3,. elsewhere",
        ),
        (
            lambda i: {"x": np.zeros(2 if i == 7 else 3)},
            "items: record 7: field 'x' has records of shape .2,., and of .3,. else",
        ),
        (
            lambda i: {"x": np.zeros(3, "f8" if i == 7 else "f4")},
            "items: record 7: field 'x' holds float64, which float32 does not",
        ),
        (lambda i: {"x": "7" if i == 7 else i}, "items: record 7: field 'x' holds what is not int64"),
        (lambda i: {"x": 2**24 + 1 if i == 7 else 0.5}, "items: record 7: field 'x' holds numbers that float32 does not"),
    ],
)
def test_a_record_unlike_those_that_settled_the_types_is_an_error(make: Any, message: str) -> None:
    source = Items(Lazy(make))
    assert len(source[np.array([0, 3])]["x"]) == 2
    for indices in ([7], [0, 7]):
        with pytest.raises(DataError, match=message):
            source[np.array(indices)]


def test_ragged_records_of_an_object_are_a_list_in_every_batch() -> None:
    source = Items(Lazy(lambda i: (np.arange(i % 3 + 1), [i] * (i % 2), i), 50), fields=("x", "y", "z"))
    assert_splits_agree(source)
    assert isinstance(source[np.array([0])]["x"], list)
    batch = source[np.array([4])]
    batch["x"][0][:] = 9
    assert source[np.array([4])]["x"][0].tolist() == [0, 1]


# -- groups of patterns ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["1", "-20"], "int64"),
        (["1", "2.5"], "float32"),
        (["1e5", ".5"], "float32"),
        (["nan", "0.5"], "float32"),
        (["nan", "inf"], "list"),
        (["1", "a"], "list"),
        (["007", "8"], "list"),
        (["1_0", "8"], "list"),
        (["+1", "8"], "list"),
        (["0x10", "8"], "list"),
        (["9" * 18, "8"], "int64"),
        (["16777217.0", "8"], "float64"),
        (["", "0.5"], "float32"),
        (["", ""], "list"),
    ],
)
def test_groups_of_a_pattern_have_one_type_over_the_file(tmp_path: Path, cells: list[str], found: str) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"<{cell}>" for cell in cells))
    for order in itertools.permutations(range(len(cells))):
        (tmp_path / "a.txt").write_text("\n".join(f"<{cells[i]}>" for i in order))
        source = TextLines(tmp_path / "a.txt", pattern="<(?P<x>.*)>")
        assert kinds(source[np.array([0])])["x"] in (found, (found, ()))
        assert_splits_agree(source)
        if found == "list":
            assert source[np.arange(2)]["x"] == [cells[i] for i in order]
        else:
            read = int if found == "int64" else float
            want = np.array([read(cells[i] or "nan") for i in order]).astype(found)
            assert np.array_equal(source[np.arange(2)]["x"], want, equal_nan=found != "int64")


def test_groups_that_lack_whole_numbers_are_told_or_filled(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 a\n b\n007 c\n")
    pattern = r"(?P<x>\d*) (?P<y>.*)"
    assert TextLines(tmp_path / "a.txt", pattern=pattern)[np.arange(3)]["x"] == ["1", "", "007"]
    (tmp_path / "a.txt").write_text("1 a\n b\n")
    with pytest.raises(DataError, match=r"a.txt:2: field 'x' is int64 and lacks a value here"):
        TextLines(tmp_path / "a.txt", pattern=pattern)
    filled = TextLines(tmp_path / "a.txt", pattern=pattern, missing={"x": -1})
    assert equal(filled[np.arange(2)], {"x": np.array([1, -1]), "y": ["a", "b"]})
    said = TextLines(tmp_path / "a.txt", pattern=pattern, types={"x": "float64"})
    assert np.array_equal(said[np.arange(2)]["x"], [1, np.nan], equal_nan=True)
    assert TextLines(tmp_path / "a.txt", pattern=pattern, types={"x": "text"})[np.arange(2)]["x"] == ["1", ""]
    (tmp_path / "a.txt").write_text("+1 a\n007 b\n")
    assert TextLines(tmp_path / "a.txt", pattern=r"(?P<x>\S*) .*", types={"x": "int8"})[np.arange(2)]["x"].tolist() == [1, 7]


# -- files of lines ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_any_encoding_line_end_and_compression(tmp_path: Path, ending: str, encoding: str, end: str) -> None:
    data = f"né{end}{end}b".encode(encoding)
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(compressed(data, ending))
    source = TextLines(path, encoding=encoding)
    assert source[np.array([2, 1, 0])]["input"] == ["b", "", "né"]
    assert pickle.loads(pickle.dumps(source))[np.array([0])]["input"] == ["né"]
    source.close()
    assert source[np.array([0])]["input"] == ["né"]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_damaged_compressed_files_are_named(tmp_path: Path, ending: str) -> None:
    whole = compressed(b"line of text\n" * 5000, ending)
    for data in (b"no such thing", whole[: len(whole) // 2]):
        (tmp_path / f"a.txt{ending}").write_bytes(data)
        with pytest.raises(DataError, match=rf"text_lines: .*a\.txt{ending} cannot be read"):
            TextLines(tmp_path / f"a.txt{ending}")
