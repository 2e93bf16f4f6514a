"""Hugging Face data sets, by the library where it is installed and by its interface where it is not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mapsto.core.errors import DataError, MissingExtra
from mapsto.data import Batches, HuggingFace

COLUMNS = {"text": ["a", "b", "c"], "label": [0, 1, 1], "ids": [[1], [2, 3], []], "pair": [[1, 2], [3, 4], [5, 6]]}


class Dataset:
    """What the adapter uses of `datasets.Dataset`."""

    def __init__(self, columns: dict[str, list[Any]], array: str | None = None) -> None:
        self.columns, self.array = columns, array
        self.column_names = list(columns)

    def __len__(self) -> int:
        return len(self.columns["text"])

    def __getitem__(self, rows: list[int]) -> dict[str, Any]:
        assert all(type(i) is int for i in rows)
        found: dict[str, Any] = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        return {n: np.array(v) if n == self.array else v for n, v in found.items()}


Dataset.__module__ = "datasets.arrow_dataset"


def check(data: Any) -> None:
    source = HuggingFace(data, fields={"input": "text", "target": "label", "ids": "ids", "pair": "pair"})
    batch = source[np.array([2, 0])]
    assert batch["input"] == ["c", "a"]
    assert batch["target"].tolist() == [1, 0]
    assert batch["target"].dtype == np.int64
    assert [np.asarray(i).tolist() for i in batch["ids"]] == [[], [1]]
    assert batch["pair"].tolist() == [[5, 6], [1, 2]]
    assert source[np.array([], np.int64)]["pair"].shape == (0, 2)
    assert Batches(data, 2).batch(1)["text"] == ["c"]
    with pytest.raises(DataError, match="there is no column 'labl'; .*did you mean 'label'"):
        HuggingFace(data, fields=["labl"])
    with pytest.raises(DataError, match="record 3 is out of range"):
        source[np.array([3])]
    with pytest.raises(DataError, match="no split 'tran'; allowed: train; did you mean 'train'"):
        HuggingFace({"train": data}, split="tran")
    assert len(HuggingFace({"train": data}, split="train", fields=["text"])) == 3


def test_by_its_interface() -> None:
    check(Dataset(COLUMNS))
    assert HuggingFace(Dataset(COLUMNS, "label"))[np.array([1])]["label"].tolist() == [1]
    with pytest.raises(DataError, match="a list_iterator has no record indices; a map-style Dataset is wanted"):
        HuggingFace(iter([]))


def test_by_name_and_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(name: str, **options: Any) -> Any:
        asked.append((name, options))
        return Dataset(COLUMNS)

    fake = SimpleNamespace(load_dataset=load, load_from_disk=load)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    (tmp_path / "dataset_info.json").write_text("{}")
    assert len(HuggingFace(str(tmp_path))) == 3
    assert len(HuggingFace("some/name", split="train", revision="1")) == 3
    assert asked == [(str(tmp_path), {}), ("some/name", {"split": "train", "revision": "1"})]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mapsto\[datasets\]'"):
        HuggingFace("some/name")


def test_by_the_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict(COLUMNS)
    check(data)
    data.save_to_disk(str(tmp_path / "saved"))
    check(HuggingFace(str(tmp_path / "saved")).data)
