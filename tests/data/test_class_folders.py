"""Folders with a sub-folder a class: what is read, in which order, and by which numbers."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from mapsto import Run, Spec, use
from mapsto.core.errors import DataError
from mapsto.data import Concatenated, ImageFolder, Split, TextFolder, class_folders


def everything(source: Any) -> dict[str, Any]:
    batch: dict[str, Any] = source[np.arange(len(source))]
    return batch


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def folder(path: Path, classes: str, lines: int = 1) -> Path:
    """A text folder with a file in each class that says its name."""
    for name in classes.split():
        write(path / name / "a.txt", f"a {name}\n" * lines)
    return path


def test_text_folders_by_line_and_by_file(tmp_path: Path) -> None:
    write(tmp_path / "neg" / "b.txt", "bad\n\nworse\n")
    write(tmp_path / "neg" / "a.txt", "dull")
    write(tmp_path / "pos" / "deep" / "c.txt", "good\n")
    source = TextFolder(tmp_path)
    assert source.classes == ["neg", "pos"]
    batch = everything(source)
    assert batch["input"] == ["dull", "bad", "worse", "good"]
    assert batch["target"].tolist() == [0, 0, 0, 1]
    assert source.lengths("input", np.array([3, 2])).tolist() == [4, 5]
    files = TextFolder(tmp_path, unit="file", suffixes=[".txt"])
    assert everything(files)["input"] == ["dull", "bad\n\nworse\n", "good\n"]
    assert files.lengths("input", np.array([1])).tolist() == [11]
    assert everything(files)["target"].tolist() == [0, 0, 1]
    for each in (source, files):
        with pytest.raises(DataError, match="only the field 'input' has lengths"):
            each.lengths("target", np.array([0]))
        with pytest.raises(DataError, match="text_folder: record 9 is out of range"):
            each[np.array([9])]
        each.close()
    write(tmp_path / "neg" / "a.txt", b"dull\nd\xfcll")
    with pytest.raises(DataError, match=r"a\.txt:2: byte 0xfc is not utf-8 text"):
        everything(TextFolder(tmp_path, unit="file", suffixes=[".txt"]))


def test_folders_without_classes_or_files_are_told(tmp_path: Path) -> None:
    write(tmp_path / "flat.txt", "x")
    with pytest.raises(DataError, match="has no sub-folders; one a class is wanted"):
        TextFolder(tmp_path)
    write(tmp_path / "cat" / "notes.md", "x")
    with pytest.raises(DataError, match=r"cat has no \.bmp/.* files \(it has \.md\); .* `classes=\[\.\.\.\]`"):
        ImageFolder(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"dog has no file files \(it has no files\)"):
        TextFolder(tmp_path)
    with pytest.raises(DataError, match="has no files in the folders of its classes"):
        ImageFolder(tmp_path, classes=["cat", "dog"])


# -- one list of classes -------------------------------------------------------------------------------------------------
def test_classes_are_numbered_by_the_list_that_is_stated(tmp_path: Path) -> None:
    valid = folder(tmp_path / "valid", "horse cat")
    (valid / "dog").mkdir()
    source = TextFolder(valid, classes=["horse", "dog", "cat"])
    assert dict(zip(everything(source)["input"], everything(source)["target"].tolist(), strict=True)) == {
        "a cat": 2,
        "a horse": 0,
    }
    folder(tmp_path / "train", "cat dog horse")
    assert everything(TextFolder(valid, classes=tmp_path / "train"))["target"].tolist() == [0, 2]
    with pytest.raises(DataError, match="valid/horse is a class that `classes` does not have; allowed: cat, hors.*mean 'hors'"):
        TextFolder(valid, classes=["cat", "hors"])
    for wrong in ([], ["cat", "cat"]):
        with pytest.raises(DataError, match="must be at least one name, each once"):
            TextFolder(valid, classes=wrong)


def features(batch: dict[str, Any]) -> dict[str, Any]:
    """Each text's length, for a model of one layer."""
    return {**batch, "input": np.array([[len(text)] for text in batch["input"]], np.float32)}


def spec(tmp_path: Path, **options: Any) -> Spec:
    def data(name: str, **more: Any) -> Any:
        source = use("text_folder", path=str(tmp_path / name), **more)
        return {"source": source, "batch_size": 3, "transforms": [features]}

    return Spec(
        model=use(nn.Linear, in_features=1, out_features=3),
        data={"train": data("train"), "valid": data("valid", **options)},
        steps=1,
        device="cpu",
    )


def test_a_run_numbers_the_classes_of_all_splits_as_in_training(tmp_path: Path) -> None:
    folder(tmp_path / "train", "cat dog horse")
    folder(tmp_path / "valid", "cat horse")
    assert TextFolder(tmp_path / "valid").labels.tolist() == [0, 1]  # the control: alone it would shift
    valid = Run(spec(tmp_path), tmp_path / "run").reader("valid")
    assert valid.batch(0)["target"].tolist() == [0, 2]
    assert valid.source.classes == ["cat", "dog", "horse"]
    folder(tmp_path / "valid", "cow")
    with pytest.raises(DataError, match="valid/cow is a class that data.train does not have; allowed: cat, dog, horse"):
        Run(spec(tmp_path), tmp_path / "run").reader("valid")
    with pytest.raises(DataError, match=r"numbers its classes \[cow, horse, cat\], and data.train .* \[cat, dog, horse\]"):
        Run(spec(tmp_path, classes=["cow", "horse", "cat"]), tmp_path / "run").reader("valid")


def test_folders_that_are_read_as_one_have_one_list(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "first", "cat dog horse"), folder(tmp_path / "second", "cat horse")
    with pytest.raises(DataError, match=r"\[cat, dog, horse\] and .*second has \[cat, horse\], .* `classes="):
        Concatenated([TextFolder(first), Split(TextFolder(second), "rest", 0.5)])
    joined = Concatenated([TextFolder(first), TextFolder(second, classes=first)])
    assert everything(joined)["target"].tolist() == [0, 1, 2, 0, 2]


# -- which files ---------------------------------------------------------------------------------------------------------
def test_hidden_and_foreign_files_are_left_out_counted_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder(tmp_path, "cat dog")
    for name in (".DS_Store", "cat/._a.txt", "cat/.cache/b.txt", "dog/Thumbs.db", "cat/b.jpg", "readme.md", ".git/config"):
        write(tmp_path / name, "x")
    (tmp_path / "dog" / "gone.txt").symlink_to(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING, "mapsto"):
        source = TextFolder(tmp_path, suffixes=[".TXT"])
    assert everything(source)["input"] == ["a cat", "a dog"]
    assert {why: len(files) for why, files in source.left_out.items()} == {
        "hidden": 5,
        "outside of a class": 1,
        "of another kind": 1,
        "broken links or no regular files": 1,
    }
    pickle.loads(pickle.dumps(source))
    assert [record.getMessage() for record in caplog.records] == source.notes()
    assert "5 hidden (.DS_Store, .git, cat/._a.txt and 2 more); 1 outside of a class (readme.md)" in source.notes()[0]


def test_what_was_left_out_stands_in_the_report(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        folder(tmp_path / split, "cat dog horse")
    write(tmp_path / "train" / "cat" / ".hidden", "x")
    run = Run(spec(tmp_path), tmp_path / "run")
    run.fit()
    start = next(e for e in run.folder.records("start"))
    assert start["detail"]["data"] == [f"data.train: text_folder: left out of {tmp_path}/train: 1 hidden (cat/.hidden)"]


def test_links_are_followed_and_one_that_leads_back_is_refused(tmp_path: Path) -> None:
    elsewhere = folder(tmp_path / "elsewhere", "cat")
    root = folder(tmp_path / "root", "dog")
    (root / "cat").symlink_to(elsewhere / "cat")
    (root / "dog" / "b.txt").symlink_to(elsewhere / "cat" / "a.txt")
    assert everything(TextFolder(root))["input"] == ["a cat", "a dog", "a cat"]
    (root / "dog" / "self").symlink_to(root / "dog" / "self")
    assert list(TextFolder(root).left_out) == ["broken links or no regular files"]
    for target in (root / "dog", root, tmp_path):
        back = root / "dog" / "back"
        back.symlink_to(target)
        with pytest.raises(DataError, match="is a link to a folder that it lies in"):
            TextFolder(root)
        back.unlink()


def test_the_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("B/é.txt", "B/e.txt", "B/z/1.txt", "B/Z.txt", "a/10.txt", "a/9.txt"):
        write(tmp_path / name, name)
    expected = ["B/Z.txt", "B/e.txt", "B/z/1.txt", "B/é.txt", "a/10.txt", "a/9.txt"]
    assert everything(TextFolder(tmp_path))["input"] == expected
    scan = os.scandir

    class Reversed:
        def __init__(self, path: Any) -> None:
            with scan(path) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=True)

        def __enter__(self) -> Any:
            return iter(self.entries)

        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(class_folders.os, "scandir", Reversed)
    assert everything(TextFolder(tmp_path))["input"] == expected
