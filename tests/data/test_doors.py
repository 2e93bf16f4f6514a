"""What a person gives to sources, readers and transforms from Python: what cannot be is told, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapsto.core.errors import DataError, MapstoError
from mapsto.data import Arrays, Batches, Csv, Items, JsonLines, Loader, Mixture, Pad, Parquet, TextLines, as_source

FIELDS = {"input": np.arange(8.0).reshape(4, 2), "target": np.arange(4)}
WORST = "record indices are a 1-D array of whole numbers"


@pytest.mark.parametrize(
    "indices",
    [0, [0, 1], [[0, 1]], "a", slice(0, 2), np.array([[0, 1]]), np.array([True, False]), np.array([0.0]), np.int64(0)],
    ids=repr,
)
@pytest.mark.parametrize(
    "source", [Arrays(**FIELDS), Items([1, 2, 3]), as_source([{"a": 1}])], ids=["arrays", "items", "dicts"]
)
def test_what_are_no_record_indices(source: Any, indices: Any) -> None:
    with pytest.raises(DataError, match=WORST):
        source[indices]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shuffle": "banana"}, "batches.shuffle: 'banana' is a str, and bool is wanted"),
        ({"drop_last": 2}, "batches.drop_last: 2 is a int, and bool is wanted"),
        ({"seed": "a"}, "batches.seed: 'a' is a str, and int is wanted"),
        ({"seed": 1.5}, "batches.seed: 1.5 is a float, and int is wanted"),
        ({"batch_size": True}, "batches.batch_size: True is a bool"),
        ({"workers": -1}, "batches.workers: -1 is out of range"),
        ({"transforms": ["random_shift"]}, "transforms: RandomShift needs pixels: int of at least 0"),
        ({"order": "shuffled", "shuffle": True}, "shuffle and order: say one of them"),
    ],
)
def test_what_a_reader_cannot_be(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MapstoError, match=said):
        Batches(FIELDS, **{"batch_size": 2, **change})


def test_a_word_for_no_is_no_and_numbers_of_numpy_are_numbers() -> None:
    assert Batches(FIELDS, np.int64(2), shuffle="no").batch(0)["target"].tolist() == [0, 1]  # type: ignore[arg-type]
    with pytest.raises(DataError, match="mixture.shuffle: 'perhaps' is a str"):
        Mixture([FIELDS, FIELDS], [1, 1], 2, shuffle="perhaps")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "read",
    [
        lambda r: r.batch(1.5),
        lambda r: r.batch("a"),
        lambda r: r.stream("a"),
        lambda r: r.indices(None),
        lambda r: Loader(r).load_state_dict({**Loader(r).state_dict(), "position": "x"}),
    ],
)
def test_a_position_is_a_whole_number(read: Any) -> None:
    with pytest.raises(DataError, match="a whole number is wanted"):
        read(Batches(FIELDS, 2))


def test_what_is_no_state_of_a_loader_and_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no state of a loader: it holds a NoneType"):
        Loader(Batches(FIELDS, 2)).load_state_dict(None)  # type: ignore[arg-type]
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(DataError, match="the environment says RANK='x'"):
        next(iter(Loader(Batches(FIELDS, 2))))


def fewer(batch: Any) -> Any:
    return {**batch, "target": batch["target"][:1]}


def single(batch: Any) -> Any:
    return {**batch, "mean": 0.5}


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (fewer, "transform fewer: its fields are of different lengths.*: 2 of 'input', 1 of 'target'"),
        (single, "transform single: field 'mean' is a float, and one value a record is wanted"),
    ],
)
def test_a_transform_that_tears_records_apart_is_named(transform: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Batches(FIELDS, 2, transforms=[transform]).batch(0)


@pytest.mark.parametrize("more", [{"mask": "mask"}, {"lengths": "mask"}, {"mask": "new", "lengths": "new"}])
def test_pad_writes_over_no_field(more: dict[str, str]) -> None:
    with pytest.raises(DataError, match="there is a field '(mask|new)' already"):
        Pad(**more)({"input": [[1, 2], [1]], "mask": [1, 2]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "read", "said"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": 1e500}\n', JsonLines, "a.jsonl:2: this JSON cannot be read: 1e500 is a number beyond"),
        ("a.jsonl", '{"a": -1' + "0" * 400 + ".5}\n", JsonLines, "is a number beyond float64"),
        ("a.csv", "a\n2\n1e500\n", Csv, "a.csv:3: column 'a' holds a number beyond float64"),
        ("a.csv", "a\n2\n1e500\n", lambda p: Csv(p, types={"a": "float64"}), "a.csv:3: column 'a' holds '1e500'"),
        ("a.txt", "2.5\n1e500\n", lambda p: TextLines(p, pattern="(?P<a>.*)")[np.array([1])], "a"),
        ("a.jsonl", "{}\n{}\n", JsonLines, "a.jsonl:1: the first object has no key"),
        ("a.jsonl", '{"a": 1}\n{}\n', JsonLines, "a.jsonl:2: there is no key 'a'"),
        ("a.csv", "alpha,b\n1,2\n", lambda p: Csv(p, fields="alhpa"), "no column 'alhpa'; .*did you mean 'alpha'"),
        ("a.csv", '5" pipe,b\n"x,3\n', Csv, r"quotes=False where a quote is text"),
    ],
)
def test_files_that_are_not_what_they_are_read_as(tmp_path: Path, name: str, text: str, read: Any, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        read(tmp_path / name)


@pytest.mark.parametrize("read", [Csv, TextLines, JsonLines])
def test_utf16_that_is_not_said_is_named(tmp_path: Path, read: Any) -> None:
    (tmp_path / "a").write_text('{"a": 1}\n{"a": 2}\n', encoding="utf-16")
    with pytest.raises(DataError, match="begins with the byte-order mark of UTF-16: say encoding='utf-16'"):
        read(tmp_path / "a")
    assert len(read(tmp_path / "a", encoding="utf-16")) > 0


def test_one_field_is_named_by_a_text_and_quotes_can_be_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('alpha,b\n5" pipe,2\n"x,3\n')
    found = Csv(tmp_path / "a.csv", fields="alpha", quotes=False)[np.arange(2)]
    assert found == {"alpha": ['5" pipe', '"x']}
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": 2}\n{"b": 3}\n')
    assert JsonLines(tmp_path / "a.jsonl", fields="b")[np.arange(2)]["b"].tolist() == [2, 3]
    filled = JsonLines(tmp_path / "a.jsonl", missing={"a": 7})[np.arange(2)]  # an absent key is a missing value
    assert {name: values.tolist() for name, values in filled.items()} == {"a": [1, 7], "b": [2, 3]}


def test_lists_of_lists_and_tensors_of_a_table_keep_their_shape(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    tensors = np.arange(24.0).reshape(4, 2, 3)
    nested = tensors.astype(np.float32).tolist()
    columns = {
        "fixed": arrow.FixedShapeTensorArray.from_numpy_ndarray(tensors),
        "nested": arrow.array(nested, arrow.list_(arrow.list_(arrow.float32()))),
        "half": arrow.array(nested, arrow.list_(arrow.list_(arrow.float32(), 3))),
        "ragged": arrow.array([[[1.0], [2.0, 3.0]]] * 4),
        "lacking": arrow.array([[[1, None]]] * 4),
    }
    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    for source in (Parquet(tmp_path / "a.parquet"), as_source(arrow.table(columns))):
        batch = source[np.array([3, 1])]
        for name, dtype in (("fixed", np.float64), ("nested", np.float32), ("half", np.float32)):
            assert batch[name].dtype == dtype
            assert np.array_equal(batch[name], tensors[[3, 1]])
        assert batch["ragged"] == [[[1.0], [2.0, 3.0]]] * 2
        assert batch["lacking"] == [[[1, None]]] * 2
    assert Parquet(tmp_path / "a.parquet", types={"nested": "int64"})[np.array([0])]["nested"].dtype == np.int64
    with pytest.raises(DataError, match="'ragged' holds .* of no one shape"):
        Parquet(tmp_path / "a.parquet", types={"ragged": "float32"})


def test_a_missing_number_of_a_field_that_was_asked_for_is_an_error() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"a": [1, None, 3], "b": [1, 2, 3]})
    assert as_source(data)[np.array([0, 1])]["a"] == [1, None]
    from mapsto.data import HuggingFace

    for source in (HuggingFace(data, fields=["a"]), Items([{"a": 1}, {"a": None}], fields=["a"])):
        with pytest.raises(DataError, match="record 1: field 'a' is int64 and lacks a value here"):
            source[np.array([0, 1])]


def test_a_batch_without_a_field_is_told() -> None:
    class Empty:
        vectorised = True

        def __len__(self) -> int:
            return 3

        def __getitem__(self, indices: Any) -> dict[str, Any]:
            return {}

    with pytest.raises(DataError, match="source Empty: a batch without a field"):
        Batches(Empty(), 2).batch(0)
