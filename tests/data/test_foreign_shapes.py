"""Data as other libraries hand them over: read by position and in their own values, or refused in one line."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto import DataError, use
from mapsto.data import Arrays, Batches, Concatenated, Csv, Items, Mixture, Pad, Parquet


def whole(source):
    reader = Batches(source, 8)
    return reader.batch(0)


# -- pandas, Hugging Face -----------------------------------------------------------------------------------------------------
def test_a_pandas_series_is_read_by_position_whatever_its_labels_are():
    pandas = pytest.importorskip("pandas")
    for labels in ([2, 0, 1], [5, 6, 7], ["a", "b", "c"]):
        assert whole(pandas.Series([10, 20, 30], index=labels))["input"].tolist() == [10, 20, 30]


def test_a_pandas_table_has_its_columns_as_fields():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"input": [1.5, 2.5], "target": ["x", "y"]}, index=[7, 3])
    batch = whole(table)
    assert batch["input"].tolist() == [1.5, 2.5]
    assert batch["target"] == ["x", "y"]
    with pytest.raises(DataError, match="two columns of the DataFrame have one name"):
        whole(pandas.concat([table, table], axis=1))


def test_several_hugging_face_sets_are_not_one():
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"input": [1, 2]})
    with pytest.raises(DataError, match="several splits; say one of train, test"):
        Batches(datasets.DatasetDict(train=one, test=one), 2)


def test_columns_that_a_hugging_face_transform_makes():
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"text": ["a", "b"]}).with_transform(lambda rows: {"input": [t * 2 for t in rows["text"]]})
    assert whole(one) == {"input": ["aa", "bb"]}


# -- values that NumPy and Arrow would change ----------------------------------------------------------------------------------
def test_numbers_beside_text_stay_what_they_are():
    assert whole({"target": [1, "b", 2.5]})["target"] == [1, "b", 2.5]
    assert whole({"target": np.array(["a", "b"])})["target"].tolist() == ["a", "b"]


def test_whole_numbers_are_not_rounded_to_fractions():
    for values in ([2**53 + 1, 0.5], [2**63, -1]):
        with pytest.raises(DataError, match="'input' holds a whole number that no type keeps"):
            Arrays(input=values)
    assert Arrays(input=[2**53 + 1, 1])[np.arange(2)]["input"].tolist() == [2**53 + 1, 1]


def test_masked_values_are_not_read_as_what_lies_under_the_mask():
    with pytest.raises(DataError, match="masked values"):
        Arrays(input=np.ma.array([1.0, 2.0], mask=[True, False]))
    assert type(Arrays(input=np.ma.array([1.0, 2.0]))[np.arange(2)]["input"]) is np.ndarray


def test_arrays_of_another_byte_order_come_in_this_machines():
    other = np.arange(3, dtype=np.dtype(np.float32).newbyteorder())
    assert not other.dtype.isnative
    for source in (Arrays(input=other), Items([*other.reshape(3, 1)])):
        found = source[np.arange(3)]["input"]
        assert found.dtype.isnative
        assert found.ravel().tolist() == [0, 1, 2]


def test_text_and_numbers_do_not_join():
    text, numbers = {"input": ["a", "b"]}, {"input": np.arange(2)}
    with pytest.raises(DataError, match="'input' is text in one of the sources that are joined, and numbers in another"):
        Concatenated([numbers, text])[np.array([0, 2])]
    with pytest.raises(DataError, match="'input' is text"):
        Mixture({"a": text, "b": numbers}, {"a": 1, "b": 1}, batch_size=4).batch(0)


def test_what_stands_for_a_missing_whole_number_is_not_cut_off(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.csv").write_text("a,b\n1,x\n,y\n")
    with pytest.raises(DataError, match=r"column 'a' is int64, which cannot hold 0.5"):
        Csv(tmp_path / "a.csv", missing={"a": 0.5})
    assert Csv(tmp_path / "a.csv", missing={"a": 4.0})[np.arange(2)]["a"].tolist() == [1, 4]


def test_a_type_that_was_said_does_not_make_numbers_infinite(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a": [70000.0, np.inf]}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("a\n70000\ninf\n")
    for read in (
        lambda dtype: Parquet(tmp_path / "a.parquet", types={"a": dtype}),
        lambda dtype: Csv(tmp_path / "a.csv", types={"a": dtype}),
        lambda dtype: Items([{"a": 70000.0}, {"a": np.inf}], types={"a": dtype}),
    ):
        assert read("float32")[np.arange(2)]["a"].tolist() == [70000, np.inf]
        with pytest.raises(DataError, match="float16"):
            read("float16")[np.arange(2)]
    with pytest.raises(DataError, match="cannot hold the value"):
        Pad(value=-1e300)({"input": [np.ones(1, np.float32), np.ones(2, np.float32)]})
    assert Pad(value=-np.inf)({"input": [np.ones(1, np.float32), np.ones(2, np.float32)]})["input"][0, 1] == -np.inf


def test_lists_of_one_length_are_an_array_in_tables_as_in_json(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for rows in ([[1, 2], [3, 4], [5, 6]], [[], [], []]):
        parquet.write_table(arrow.table({"a": arrow.array(rows, arrow.list_(arrow.int64()))}), tmp_path / "a.parquet")
        found = Parquet(tmp_path / "a.parquet")[np.array([2, 0])]["a"]
        assert found.tolist() == [rows[2], rows[0]]
    parquet.write_table(arrow.table({"a": [[1, 2], [3], None]}), tmp_path / "a.parquet")
    assert [v if v is None else v.tolist() for v in Parquet(tmp_path / "a.parquet")[np.arange(3)]["a"]] == [[1, 2], [3], None]


def test_lists_of_one_length_and_of_several_join():
    even, uneven = {"input": np.array([[1, 2], [3, 4]])}, Items([{"input": [5]}, {"input": [6, 7]}])
    found = Concatenated([even, uneven])[np.array([2, 0, 3])]["input"]
    assert [v.tolist() for v in found] == [[5], [1, 2], [6, 7]]


# -- what is asked for ---------------------------------------------------------------------------------------------------------
def test_fields_choose_and_name_the_keys_of_records_that_are_dicts():
    records = [{"text": "a", "label": 0, "more": 1}, {"text": "b", "label": 1}]
    assert whole(Items(records, fields={"input": "text", "target": "label"}))["input"] == ["a", "b"]
    assert list(whole(Items(records, fields=["label"]))) == ["label"]
    with pytest.raises(DataError, match="no key 'txt'.*did you mean 'text'"):
        whole(Items(records, fields=["txt"]))


def test_parts_of_a_spec_are_built_where_a_source_and_transforms_are_wanted():
    reader = Batches(use("items", items=[{"x": 255}, {"x": 0}], fields={"input": "x"}), 2, transforms=[use("scale")])
    assert reader.batch(0)["input"].tolist() == [1, 0]


def test_what_is_no_source_is_told_so():
    with pytest.raises(DataError, match="a field is named by text, and 0 is none"):
        whole({0: [1, 2]})
    with pytest.raises(DataError, match="Items is a class; give an object of it"):
        whole(Items)


@pytest.mark.parametrize("returned", [None, (1, 2), 3])
def test_a_transform_that_returns_no_batch_is_named(returned):
    def mine(batch):
        return returned

    with pytest.raises(DataError, match=f"transform mine returned a {type(returned).__name__}, and a batch"):
        Batches({"input": [1, 2]}, 2, transforms=[mine]).batch(0)
