"""Sources that read files: lines, JSON, folders of text and images, tables, blocks of tokens."""

from __future__ import annotations

import csv
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import compressed, equal

from mapsto.core.errors import DataError, MissingExtra
from mapsto.data import (
    Arrow,
    ArrowTable,
    Csv,
    JsonLines,
    Parquet,
    TextFolder,
    TextLines,
    TokenBlocks,
    line_files,
)

NONE = np.array([], np.int64)


def everything(source: Any) -> dict[str, Any]:
    batch: dict[str, Any] = source[np.arange(len(source))]
    return batch


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# -- lines ---------------------------------------------------------------------------------------------------------------
@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=12), min_size=1, max_size=30),
    st.booleans(),
    st.booleans(),
)
def test_lines_are_those_python_reads(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ended: bool, windows: bool
) -> None:
    end = "\r\n" if windows else "\n"
    path = tmp_path_factory.mktemp("lines") / "file.txt"
    path.write_bytes((end.join(texts) + end * ended).encode())
    with path.open(encoding="utf-8", newline=None) as file:
        expected = [line.rstrip("\n") for line in file]
    if not expected:
        with pytest.raises(DataError, match="has no lines"):
            TextLines(path)
        return
    source = TextLines(path)
    assert everything(source)["input"] == expected
    assert source[np.array([len(source) - 1, 0])]["input"] == [expected[-1], expected[0]]
    assert source.lengths("input", np.arange(len(source))).tolist() == [len(t.encode()) for t in expected]


def test_lines_are_found_across_scan_borders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["abc", "", "de", "f" * 11, "g"]
    path = write(tmp_path / "a.txt", "\n".join(texts))
    for scan in range(1, 9):
        monkeypatch.setattr(line_files, "SCAN", scan)
        assert everything(TextLines(path))["input"] == texts


def test_lines_of_several_files_skipping_blank_ones_sent_to_another_process(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.txt", "one\n\n  \ntwo\n"), write(tmp_path / "b.txt", "three\n\n")]
    source = TextLines(paths, field="text", skip_blank=True)
    assert everything(source) == {"text": ["one", "two", "three"]}
    assert source[NONE] == {"text": []}
    again = pickle.loads(pickle.dumps(source))
    assert everything(again) == everything(source)
    source.close()
    assert everything(source) == everything(again)
    assert len(TextLines(paths)) == 6
    again.close()
    again.close()
    with pytest.raises(DataError, match="there is no field 'txt'; allowed: text; did you mean 'text'"):
        source.lengths("txt", np.array([0]))
    with pytest.raises(DataError, match="text_lines: record 3 is out of range; it has 3 records"):
        source[np.array([3])]


def test_patterns_make_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "1 good film\n0 bad\n")
    batch = everything(TextLines(path, pattern=r"(?P<target>\d+) (?P<input>.*)"))
    assert batch["target"].tolist() == [1, 0]
    assert batch["target"].dtype == np.int64
    assert batch["input"] == ["good film", "bad"]
    write(path, "1 good\nbad\n")
    with pytest.raises(DataError, match=r"a.txt:2: the line does not match .*: 'bad'"):
        everything(TextLines(path, pattern=r"(?P<target>\d+) (?P<input>.*)"))
    with pytest.raises(DataError, match="is not a regular expression"):
        TextLines(path, pattern="(")
    with pytest.raises(DataError, match="has no named group"):
        TextLines(path, pattern="(.*)")


def test_text_that_cannot_be_decoded_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"fine\n\ncaf\xe9\n")
    assert TextLines(path)[np.array([0])]["input"] == ["fine"]
    for source, line in ((TextLines(path), 2), (TextLines(path, skip_blank=True), 1)):
        with pytest.raises(DataError, match=r"a\.txt:3: byte 0xe9 is not utf-8 text; say which encoding it is"):
            source[np.array([line])]
    assert TextLines(path, encoding="latin-1")[np.array([2])]["input"] == ["café"]


@pytest.mark.parametrize("source", [TextLines, JsonLines, Csv, TokenBlocks, TextFolder])
def test_a_missing_file_names_the_nearest(tmp_path: Path, source: Any) -> None:
    write(tmp_path / "corpora" / "train.txt", "x")
    more = {"block": 4} if source is TokenBlocks else {}
    with pytest.raises(DataError, match=r"there is no .*trian\.txt; .*did you mean 'train\.txt'"):
        source(tmp_path / "corpora" / "trian.txt", **more)
    with pytest.raises(DataError, match=r"its folder .*corpra is missing; allowed: corpora; did you mean 'corpora'"):
        source(tmp_path / "corpra" / "deep" / "train.txt", **more)


def test_a_folder_is_not_a_file_and_the_other_way_round(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    with pytest.raises(DataError, match="is a folder, and a file is wanted"):
        TextLines(tmp_path)
    with pytest.raises(DataError, match="is a file, and a folder is wanted"):
        TextFolder(path)
    with pytest.raises(DataError, match="no file is named"):
        TextLines([])


def test_json_lines(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "label": 1, "score": 0.5, "ids": [1, 2], "pair": [1, 2], "extra": None},
        {"text": "b", "label": 0, "score": 1, "ids": [3], "pair": [3, 4], "extra": {"x": 1}},
    ]
    path = write(tmp_path / "a.jsonl", "\n\n".join(json.dumps(r) for r in rows))
    batch = everything(JsonLines(path))
    assert batch["text"] == ["a", "b"]
    assert batch["label"].dtype == np.int64
    assert batch["score"].dtype == np.float32
    assert [i.tolist() for i in batch["ids"]] == [[1, 2], [3]]
    assert batch["pair"].tolist() == [[1, 2], [3, 4]]
    assert batch["extra"] == [None, {"x": 1}]
    named = JsonLines(path, fields={"input": "text", "target": "label"})
    assert everything(named)["input"] == ["a", "b"]
    assert named[NONE]["target"].shape == (0,)
    assert everything(JsonLines(path, fields=["label"])).keys() == {"label"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n\n{"text": ', r"a.jsonl:3: this is not JSON"),
        ("[1]", r"a.jsonl:1: a JSON object is wanted, and a list is there"),
        ('{"txt": "a"}', r"a.jsonl:1: there is no key 'text'; allowed: txt; did you mean 'txt'"),
        ("\n\n", "json_lines: .*a.jsonl has no lines"),
        ("", "json_lines: .*a.jsonl has no lines"),
    ],
)
def test_bad_json_lines_are_told(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", content)
    with pytest.raises(DataError, match=message):
        everything(JsonLines(path, fields=["text"]))


# -- tables --------------------------------------------------------------------------------------------------------------
def table(chunks: int = 3) -> Any:
    """A chunked table with a column of every kind that is handled in its own way."""
    arrow = pytest.importorskip("pyarrow")
    pieces = [
        arrow.table(
            {
                "text": ["a", "bé", ""],
                "maybe": arrow.array(["x", None, "z"]),
                "bytes": arrow.array([b"1", b"\xff\x00", b""]),
                "number": arrow.array([1 + i, 2, 3], arrow.int32()),
                "real": [0.5, None, 1.5],
                "flag": [True, False, True],
                "class": arrow.array(["p", "q", "p"]).dictionary_encode(),
                "ids": [[1, 2], [], [3]],
                "holes": [[1, None], [2], None],
                "vector": arrow.array([[1.0, 2.0]] * 3, arrow.list_(arrow.float32(), 2)),
                "day": arrow.array([0, 1, 2], arrow.date32()),
                "struct": [{"x": 1}, None, {"x": 3}],
            }
        )
        for i in range(chunks)
    ]
    return arrow.concat_tables(pieces).slice(1)


def test_tables_give_what_pyarrow_gives() -> None:
    rows = table()
    source = ArrowTable(rows)
    indices = np.array([7, 0, 3, 3, 5])
    expected, batch = rows.take(indices).to_pydict(), source[indices]
    for name in ("text", "maybe", "bytes", "class", "holes", "struct"):
        assert batch[name] == expected[name], name
    for name in ("number", "flag", "vector"):
        assert batch[name].tolist() == expected[name], name
    assert batch["number"].dtype == np.int32
    assert [r.tolist() for r in batch["ids"]] == expected["ids"]
    assert np.array_equal(batch["real"], np.array(expected["real"], float), equal_nan=True)
    assert batch["day"].astype(object).tolist() == expected["day"]
    assert source[NONE]["text"] == []
    assert source[NONE]["vector"].shape == (0, 2)


def test_tables_know_lengths() -> None:
    arrow = pytest.importorskip("pyarrow")
    source = ArrowTable(table())
    at = np.array([0, 2, 1])
    assert source.lengths("text", at).tolist() == [3, 1, 0]
    assert source.lengths("ids", at).tolist() == [0, 2, 1]
    assert source.lengths("number", at).tolist() == [2, 2, 3]
    assert ArrowTable(table().select(["bytes"])).lengths("bytes", at).tolist() == [2, 1, 0]
    some = ArrowTable(arrow.table({"ids": arrow.array([[1, 2], None, [3]])}))
    assert some[np.array([1, 2])]["ids"][0] is None
    assert some[np.array([1, 2])]["ids"][1].tolist() == [3]
    assert ArrowTable(table().select(["holes"]).slice(0, 1)).lengths("holes", np.array([0])).tolist() == [1]
    with pytest.raises(DataError, match=r"there is no field 'txt'; .*did you mean 'text'"):
        source.lengths("txt", at)


def test_tables_that_do_not_fit_are_told() -> None:
    arrow = pytest.importorskip("pyarrow")
    holes = arrow.table({"n": [1, None], "f": [True, None], "x": [0.5, None]})
    with pytest.raises(DataError, match="table: row 1: table: column 'n' lacks 1 of its 2 values: say what stands for them"):
        ArrowTable(holes, fields=["n"])
    batch = everything(ArrowTable(holes))  # nobody asked for them by name
    assert batch["n"] == [1, None]
    assert batch["f"] == [True, None]
    assert np.array_equal(batch["x"], [0.5, np.nan], equal_nan=True)
    assert everything(ArrowTable(holes, missing={"n": -1, "f": False}))["n"].tolist() == [1, -1]
    assert np.array_equal(everything(ArrowTable(holes, types={"n": "float64"}))["n"], [1, np.nan], equal_nan=True)
    for said, message in (
        ({"types": {"m": "int8"}}, "types: there is no field 'm'; allowed: f, n, x"),
        ({"types": {"n": "int8"}}, "row 1: table: column 'n' lacks 1"),
        ({"types": {"x": "int8"}, "missing": {"x": 0}}, "column 'x' is float64 and holds numbers that are not int8|double and"),
        ({"missing": {"n": "a"}}, "column 'n' is int64, which cannot hold 'a' in the place of missing values"),
    ):
        with pytest.raises(DataError, match=message):
            ArrowTable(holes, **said)
    with pytest.raises(DataError, match="two columns are named 'n'"):
        ArrowTable(arrow.table([[1], [2]], names=["n", "n"]))
    with pytest.raises(DataError, match=r"there is no column 'txt'; .*did you mean 'text'"):
        ArrowTable(table(), fields={"input": "txt"})
    with pytest.raises(DataError, match="there are no rows"):
        ArrowTable(table().slice(0, 0))
    with pytest.raises(DataError, match="record 8 is out of range"):
        ArrowTable(table())[np.array([8])]


@pytest.mark.parametrize("kind", ["parquet", "arrow-file", "arrow-stream"])
def test_files_of_tables(tmp_path: Path, kind: str) -> None:
    arrow, rows = pytest.importorskip("pyarrow"), table()
    path = tmp_path / "rows"
    source: Any = Parquet if kind == "parquet" else Arrow
    if kind == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(rows, path, row_group_size=2)
    else:
        with (arrow.ipc.new_file if kind == "arrow-file" else arrow.ipc.new_stream)(path, rows.schema) as writer:
            writer.write_table(rows)
    reader = source(path, fields={"input": "text", "target": "number"})
    batch = everything(reader)
    assert batch["input"] == rows["text"].to_pylist()
    assert batch["target"].tolist() == rows["number"].to_pylist()
    assert equal(everything(pickle.loads(pickle.dumps(reader))), batch)
    assert len(pickle.dumps(reader)) < 500  # a worker opens the file, rather than being sent it
    assert len(source([path, path], ["text"])) == 2 * len(rows)
    assert set(everything(source(path, ["text", "flag"]))) == {"text", "flag"}
    assert set(everything(source(path))) == set(rows.column_names)
    with pytest.raises(DataError, match=r"there is no column 'flagg'; .*did you mean 'flag'"):
        source(path, ["flagg"])
    write(tmp_path / "broken", b"not a table")
    with pytest.raises(DataError, match="broken cannot be read"):
        source(tmp_path / "broken")


@pytest.mark.parametrize("source", [Parquet, Arrow])
def test_files_of_mixed_types_are_joined_where_no_value_changes(tmp_path: Path, source: Any) -> None:
    arrow = pytest.importorskip("pyarrow")

    def files(*columns: Any) -> list[Path]:
        import pyarrow.feather
        import pyarrow.parquet

        paths = [tmp_path / f"{i}.table" for i in range(len(columns))]
        for path, column in zip(paths, columns, strict=True):
            rows = arrow.table(column if isinstance(column, dict) else {"x": column})
            pyarrow.parquet.write_table(rows, path) if source is Parquet else pyarrow.feather.write_feather(rows, path)
        return paths

    for one, other, dtype in (("int8", "int32", "int32"), ("float32", "float64", "float64"), ("int16", "null", "int16")):
        columns = arrow.array([1, 2], one), arrow.array([None] if other == "null" else [3], other)
        found = everything(source(files(*columns), missing={"x": 3}))["x"]
        assert found.tolist() == [1, 2, 3]
        assert found.dtype == dtype
    assert everything(source(files(arrow.array(["a"]), arrow.array(["b"]).dictionary_encode())))["x"] == ["a", "b"]
    for one, other in (("int64", "float64"), ("int64", "string"), ("bool", "int8"), ("uint64", "int64")):
        columns = arrow.array([None], one), arrow.array([None], other)
        with pytest.raises(
            DataError, match=r"column 'x' is \w+ in .*1\.table and \w+ in .*0\.table: write the files in one type"
        ):
            source(files(*columns))
    with pytest.raises(DataError, match=r"1\.table has no column 'y', which .*0\.table has"):
        source(files({"x": [1], "y": [2]}, {"x": [1]}))


def test_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,size,text,gap,whole\n1,0.5,"a, b",1,7\n\n2,2,c,,\n\n')
    batch = everything(Csv(path))
    assert batch["id"].dtype == np.int64
    assert batch["size"].dtype == np.float32
    assert batch["size"].tolist() == [0.5, 2.0]
    assert batch["text"] == ["a, b", "c"]
    assert batch["gap"] == [1, None]
    with pytest.raises(DataError, match=r"a\.csv:4: csv: column 'gap' lacks 1 of its 2 values: say what stands for them"):
        Csv(path, ["gap"])
    said = Csv(path, types={"gap": "float64", "id": "int8", "size": "text"}, missing={"whole": 0})
    batch = everything(said)
    assert np.array_equal(batch["gap"], [1, np.nan], equal_nan=True)
    assert batch["id"].dtype == np.int8
    assert batch["size"] == ["0.5", "2"]
    assert batch["whole"].tolist() == [7, 0]
    assert equal(everything(pickle.loads(pickle.dumps(Csv(path, ["id", "text"])))), everything(Csv(path, ["id", "text"])))
    assert everything(Csv(path, {"input": "text"})) == {"input": ["a, b", "c"]}
    tabbed = write(tmp_path / "a.tsv", "x\ty\n1\t2\n")
    assert everything(Csv(tabbed, ["y"]))["y"].tolist() == [2]
    assert everything(Csv([path, path], ["id"]))["id"].tolist() == [1, 2, 1, 2]
    assert everything(Csv(write(tmp_path / "b.csv", "x;y\n1;2\n"), delimiter=";"))["y"].tolist() == [2]


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["1", "-20", " 7 "], [1, -20, 7]),
        (["9223372036854775807", "-9223372036854775808"], [2**63 - 1, -(2**63)]),
        (["1", "2.5", "1e5", ".5", "-7."], np.float32([1, 2.5, 1e5, 0.5, -7])),
        (["nan", "Infinity", "-inf", "1.5"], np.float32([np.nan, np.inf, -np.inf, 1.5])),
        (["0.5", "", " "], np.float32([0.5, np.nan, np.nan])),
        (["0.5", "16777217"], np.float64([0.5, 2**24 + 1])),
        (["0.5", "1e300"], np.float64([0.5, 1e300])),
        (["nan", "inf"], ["nan", "inf"]),
        (["1_0", "10"], ["1_0", "10"]),
        (["00501", "10"], ["00501", "10"]),
        (["+1", "10"], ["+1", "10"]),
        (["0x10", "10"], ["0x10", "10"]),
        (["True", "False"], ["True", "False"]),
        (["2024-02-29", "2024-03-01"], ["2024-02-29", "2024-03-01"]),
        (["1", "a"], ["1", "a"]),
        (["a" * 300_000, "é\0"], ["a" * 300_000, "é\0"]),
        (["two\nlines", 'a "quote"'], ["two\nlines", 'a "quote"']),
        (["", ""], ["", ""]),
    ],
)
def test_csv_cells_are_numbers_only_where_they_look_as_numbers_are_written(tmp_path: Path, cells: Any, found: Any) -> None:
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["x"], *([c] for c in cells)])
    got = everything(Csv(tmp_path / "a.csv"))["x"]
    if isinstance(found[0], str):
        assert got == found
    else:
        want = np.asarray(found)
        assert got.dtype == want.dtype
        assert np.array_equal(got, want, equal_nan=want.dtype.kind == "f")


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_csv_of_any_compression_encoding_and_line_end(tmp_path: Path, ending: str) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "latin-1"):
        for end in ("\n", "\r\n", "\r"):
            path = write(tmp_path / f"a.tsv{ending}", compressed(f"é\ty{end}ü\t2{end}".encode(encoding), ending))
            batch = everything(Csv(path, encoding=encoding))
            assert batch["é"] == ["ü"]
            assert batch["y"].tolist() == [2]


@pytest.mark.parametrize(
    ("content", "said", "message"),
    [
        ("a,b\n1,2\n\n1,2,3\n", {}, r"a\.csv:4: the row has 3 cells, and the header 2"),
        ('a,b\n"x\ny",2\n\n1\n', {}, r"a\.csv:5: the row has 1 cells, and the header 2"),
        ('a,b\n1,2\n1,"2\n3,4\n5,6\n', {}, r"a\.csv:3: a quoted cell begins in this row and never ends"),
        ("a,b\n", {}, r"a\.csv has no rows$"),
        ("a,b", {}, r"a\.csv has no rows$"),
        ("", {}, r"a\.csv has no rows and no header"),
        ("\n\n", {}, r"a\.csv has no rows and no header"),
        ("a,target\n1,2\n", {"fields": ["targets"]}, "has no column 'targets'; allowed: a, target; did you mean 'target'"),
        ("a,b,a\n1,2,3\n", {}, "a.csv: two columns are named 'a'"),
        (b"a,b\n1,\xff\n", {}, r"a\.csv:2: byte 0xff is not utf-8 text; say its encoding"),
        (
            "a\n1\n99999999999999999999\n",
            {},
            r"a\.csv:3: column 'a' holds a whole number beyond int64; say its type, types: .a: text.",
        ),
        ("a\n0.5\n9007199254740993\n", {}, r"a\.csv:3: column 'a' holds a whole number beyond 2\^53 among fractions"),
        ("a\n1\nx\n", {"types": {"a": "int64"}}, r"a\.csv:3: column 'a' holds 'x', which is not int64"),
        ("a\n1\n300\n", {"types": {"a": "int8"}}, r"a\.csv:3: column 'a' holds '300', which is not int8"),
        ("a\n1\n", {"types": {"b": "int8"}}, "types: there is no field 'b'; allowed: a"),
        ("a\n1\n", {"delimiter": ",,"}, "delimiter ',,' is no single character"),
        ("a\n1\n", {"encoding": "utf8000"}, "'utf8000' is no encoding of text"),
    ],
)
def test_bad_csv_is_told(tmp_path: Path, content: str | bytes, said: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Csv(write(tmp_path / "a.csv", content), **said)


def test_csv_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        MissingExtra, match=r"the source `csv` needs 'pyarrow', which is not installed: pip install 'mapsto\[arrow\]'"
    ):
        Csv(write(tmp_path / "a.csv", "a\n1\n"))


# -- blocks of tokens ------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(2, 60), block=st.integers(1, 20))
def test_every_token_but_the_first_is_a_target_once(tokens: int, block: int) -> None:
    ids = np.arange(100, 100 + tokens)
    batch = everything(TokenBlocks(ids, block))
    assert batch["input"].shape == batch["target"].shape == (-(-(tokens - 1) // block), block)
    counted = batch["target"] != -100
    assert batch["target"][counted].tolist() == ids[1:].tolist()
    assert (batch["target"][counted] == batch["input"][counted] + 1).all()
    assert (batch["input"][:, 1:][~counted[:, :-1]] == 0).all()


def test_blocks_of_a_text_file_are_its_bytes(tmp_path: Path) -> None:
    text = "naïve text\n" * 20
    path = write(tmp_path / "a.txt", text)
    source = TokenBlocks(path, 16)
    assert isinstance(source.tokens, np.memmap)
    batch = source[np.array([3, 0])]
    assert batch["input"].dtype == np.int64
    assert bytes(batch["input"][1].tolist()) == text.encode()[:16]
    assert bytes(batch["target"][0].tolist()) == text.encode()[49:65]
    again = pickle.loads(pickle.dumps(source))
    assert equal(again[np.array([3, 0])], batch)
    assert len(pickle.dumps(source)) < 1000
    overlapping = TokenBlocks(path, 16, stride=4)
    assert bytes(overlapping[np.array([1])]["input"][0].tolist()) == text.encode()[4:20]


def test_blocks_of_characters_arrays_and_sources(tmp_path: Path) -> None:
    text = "abcabd"
    path = write(tmp_path / "a.txt", text)
    characters = TokenBlocks(path, 3, tokenise=lambda s: [ord(c) - 97 for c in s])
    assert characters.tokens.dtype == np.uint8
    assert characters[np.array([0])]["input"].tolist() == [[0, 1, 2]]
    assert TokenBlocks(path, 3, tokenise=lambda s: [1000, 2]).tokens.dtype == np.uint16
    np.save(tmp_path / "ids.npy", np.array([5, 6, 7], np.uint16))
    assert TokenBlocks(tmp_path / "ids.npy", 2)[np.array([0])]["target"].tolist() == [[6, 7]]
    lines_file = write(tmp_path / "b.txt", "ab\ncd\n")
    joined = TokenBlocks(TextLines(lines_file), 4)
    assert bytes(joined.tokens.tolist()) == b"ab\ncd"
    assert pickle.loads(pickle.dumps(joined)).tokens.tolist() == joined.tokens.tolist()
    assert TokenBlocks(TextLines(lines_file), 4, tokenise=lambda s: [len(s), 0]).tokens.tolist() == [5, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: TokenBlocks(p / "empty.txt", 4), "empty.txt is empty"),
        (lambda p: TokenBlocks(p / "one.txt", 4), "1 tokens are too few"),
        (lambda p: TokenBlocks(p / "one.txt", 0), "token_blocks.block: 0 is out of range"),
        (lambda p: TokenBlocks(p / "one.txt", 4, stride=0), "token_blocks.stride: 0 is out of range"),
        (lambda p: TokenBlocks(np.zeros((3, 3)), 4), "a 1-D array of whole numbers, not float64 of shape"),
        (lambda p: TokenBlocks(p / "one.txt", 4, tokenise=lambda s: [-1, 2]), "a negative token id"),
        (lambda p: TokenBlocks(p / "one.txt", 4, tokenise=lambda s: np.zeros(0, int)), "0 tokens are too few"),
        (lambda p: TokenBlocks({"text": ["a"]}, 4), "token_blocks: the batch has no field 'input'; allowed: text"),
        (lambda p: TokenBlocks(np.arange(9), 4)[np.array([2])], "record 2 is out of range; it has 2 records"),
    ],
)
def test_bad_blocks_are_told(tmp_path: Path, make: Any, message: str) -> None:
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "one.txt", "a")
    with pytest.raises(DataError, match=message):
        make(tmp_path)
