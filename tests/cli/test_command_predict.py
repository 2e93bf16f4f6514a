"""`mapsto predict`: every format, in the data's order, whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapsto import DataError, Run, use
from mapsto.cli.predict import reader_of
from mapsto.cli.predictions import writing


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def expected(trained):
    batches = list(Run.resume(trained).predict("test"))
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def test_json_lines(mapsto, trained, tmp_path, expected):
    said = mapsto("predict", trained, "--output", tmp_path / "p.jsonl")
    assert said.code == 0, said.err
    assert said.out == f"{tmp_path / 'p.jsonl'}\n"
    assert "5 records, step 6" in said.err
    rows = read(tmp_path / "p.jsonl")
    assert [row["label"] for row in rows] == expected["label"].tolist()
    np.testing.assert_array_equal(np.float32([row["probability"] for row in rows]), expected["probability"])


def test_csv(mapsto, trained, tmp_path, expected):
    assert mapsto("predict", trained, "--output", tmp_path / "p.csv").code == 0
    with open(tmp_path / "p.csv", newline="") as file:
        heads, *rows = csv.reader(file)
    assert heads == ["record", "label", "probability.0", "probability.1"]
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4"]
    np.testing.assert_array_equal(np.float32([row[2:] for row in rows]), expected["probability"])


def test_parquet(mapsto, trained, tmp_path, expected):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert mapsto("predict", trained, "--output", tmp_path / "p.parquet").code == 0
    table = parquet.read_table(tmp_path / "p.parquet")
    assert table["label"].to_pylist() == expected["label"].tolist()
    np.testing.assert_array_equal(np.float32(table["probability"].to_pylist()), expected["probability"])


def test_the_order_is_that_of_the_data(mapsto, trained, tmp_path):
    assert mapsto("predict", trained, "--data", "train", "--output", tmp_path / "train.csv").code == 0  # which is shuffled
    assert mapsto("predict", trained, "--data", "test", "--output", tmp_path / "test.csv").code == 0
    assert (tmp_path / "train.csv").read_bytes() == (tmp_path / "test.csv").read_bytes()


def test_another_checkpoint(mapsto, trained, tmp_path):
    for which in ("3", "last"):
        assert mapsto("predict", trained, "--checkpoint", which, "--output", tmp_path / f"{which}.csv").code == 0
    assert (tmp_path / "3.csv").read_bytes() != (tmp_path / "last.csv").read_bytes()


# -- files in place of the data ---------------------------------------------------------------------------------------------
def test_a_file_is_read_as_the_data_are(mapsto, trained, tmp_path, expected):
    rows = [[0, 0], [0, 1], [1, 0], [1, 1], [1, 1]]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"input": row}) + "\n" for row in rows))
    np.savez(tmp_path / "new.npz", input=np.array(rows))
    for name in ("new.jsonl", "new.npz"):
        said = mapsto("predict", trained, "--input", tmp_path / name, "--output", tmp_path / "p.csv")
        assert said.code == 0, said.err
        with open(tmp_path / "p.csv", newline="") as file:
            found = [row[2:] for row in list(csv.reader(file))[1:]]
        np.testing.assert_array_equal(np.float32(found), expected["probability"])


def test_a_source_with_a_path_reads_the_other_path(mapsto, tmp_path):
    for name, sign in (("train", 1.0), ("new", -1.0)):
        lines = [json.dumps({"x": [sign * i, 1.0], "target": i % 2}) for i in range(1, 4)]
        (tmp_path / f"{name}.data").write_text("\n".join(lines) + "\n")
    source = {"use": "json_lines", "path": str(tmp_path / "train.data"), "fields": {"input": "x", "target": "target"}}
    model = {"use": "torch.nn:Linear", "in_features": 2, "out_features": 2}
    data = {"train": {"source": source, "batch_size": 2}}
    (tmp_path / "paths.yaml").write_text(json.dumps({"model": model, "data": data, "device": "cpu", "steps": 1}))
    run = tmp_path / "run"
    assert mapsto("train", tmp_path / "paths.yaml", "--run", run, "--quiet").code == 0
    for name in ("train", "new"):
        words = ["--data", "train", "--input", tmp_path / f"{name}.data", "--output", tmp_path / f"{name}.csv"]
        said = mapsto("predict", run, *words)
        assert said.code == 0, said.err
    assert mapsto("predict", run, "--data", "train", "--output", tmp_path / "own.csv").code == 0
    assert (tmp_path / "own.csv").read_bytes() == (tmp_path / "train.csv").read_bytes()
    assert (tmp_path / "own.csv").read_bytes() != (tmp_path / "new.csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--output", "p.xml"], "'.xml' is no format for predictions; allowed: .csv, .jsonl, .parquet"),
        (["--output", "p"], "a file without an ending is no format"),
        (["--output", "nowhere/p.csv"], "there is no folder nowhere"),
        (["--output", "p.csv", "--data", "tst"], "did you mean 'test'?"),
        (["--output", "p.csv", "--input", "nothing.csv"], "there is no file nothing.csv"),
        (["--output", "p.csv", "--input", "here.xyz"], "no source reads '.xyz'"),
        (["--output", "p.csv", "--input", "here.xyz", "--data", "tst"], "did you mean 'test'?"),
    ],
)
def test_wrong_words(mapsto, trained, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    Path("here.xyz").write_text("")
    before = sorted(tmp_path.iterdir())
    said = mapsto("predict", trained, *words)
    assert said.code == 1
    assert told in said.err
    assert sorted(tmp_path.iterdir()) == before


# -- the files -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_what_breaks_off_leaves_the_old_file(tmp_path, ending):
    path = tmp_path / f"p{ending}"
    path.write_text("before")

    def broken_off() -> None:
        with writing(path) as write:
            write({"label": np.arange(3)})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_uneven_fields_are_refused(tmp_path, ending):
    with (
        pytest.raises(DataError, match="label has 3, score has 2"),
        writing(tmp_path / f"p{ending}") as write,
    ):
        write({"label": np.arange(3), "score": np.arange(2)})
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_finite_are_null(tmp_path):
    with writing(tmp_path / "p.jsonl") as write:
        write({"value": np.array([[1.5, np.nan], [np.inf, 2.0]])})
    text = (tmp_path / "p.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert read(tmp_path / "p.jsonl") == [{"value": [1.5, None]}, {"value": [None, 2.0]}]


def test_text_and_higher_axes(tmp_path):
    batch = {"text": ["a,b", 'say "c"'], "grid": np.arange(12.0).reshape(2, 2, 3)}
    for ending in (".csv", ".jsonl", ".parquet"):
        with writing(tmp_path / f"p{ending}") as write:
            assert write(batch) == 2
    with open(tmp_path / "p.csv", newline="") as file:
        heads, *rows = csv.reader(file)
    assert heads == ["text", *(f"grid.{i}.{j}" for i in range(2) for j in range(3))]
    assert [row[0] for row in rows] == batch["text"]
    assert [float(v) for v in rows[1][1:]] == [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    lines = read(tmp_path / "p.jsonl")
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(tmp_path / "p.parquet").to_pylist() == lines
    assert lines[1] == {"text": 'say "c"', "grid": [[6.0, 7.0, 8.0], [9.0, 10.0, 11.0]]}


def test_batches_of_another_shape(tmp_path):
    def both(ending: str) -> None:
        with writing(tmp_path / f"p{ending}") as write:
            write({"token": np.zeros((2, 3), np.int64)})
            write({"token": np.ones((1, 5), np.int64)})

    with pytest.raises(DataError, match="write .jsonl or .parquet instead"):
        both(".csv")
    both(".jsonl")
    both(".parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(tmp_path / "p.parquet")["token"].to_pylist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1, 1, 1]]
    assert read(tmp_path / "p.jsonl")[2]["token"] == [1, 1, 1, 1, 1]


def test_a_type_that_changes_in_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    with writing(tmp_path / "p.parquet") as write:
        write({"label": np.arange(2)})
        with pytest.raises(DataError, match="change their type"):
            write({"label": ["x"]})


def test_data_without_a_source_have_no_file_in_their_place(trained, tmp_path):
    (tmp_path / "new.csv").write_text("input\n1\n")
    run = Run.resume(trained)
    mixed = use("mixture", sources=[{"input": [[1.0, 2.0]]}], weights=[1.0], batch_size=1)
    run.spec = dataclasses.replace(run.spec, data={**run.spec.data, "mixed": mixed})
    with pytest.raises(DataError, match=r"data\.mixed is not made of a source, so no file can take its place"):
        reader_of(run, "mixed", tmp_path / "new.csv")


# -- files of every kind, without labels ------------------------------------------------------------------------------------
RECIPE = """\
import json
import os
import pathlib

import mapsto
from mapsto import Spec, use
from torch import nn


@mapsto.model
def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


@mapsto.transform
def lengths(batch):
    import numpy as np
    return {**batch, "input": np.array([[len(t), t.count("o")] for t in batch["input"]], np.float32)}


@mapsto.transform
def pair(batch):
    import numpy as np
    return {**batch, "input": np.stack([batch["x"], batch["y"]], 1)}


@mapsto.source
class Words:
    def __init__(self, path: str):
        self.rows = [line.split("|") for line in pathlib.Path(path).read_text().splitlines()]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, indices):
        rows = [self.rows[i] for i in indices]
        labels = {"target": [row[1] for row in rows]} if len(self.rows[0]) > 1 else {}
        return {"input": [row[0] for row in rows], **labels}


def spec():
    source = json.loads(os.environ["SOURCE"])
    if source["use"] == "image_folder":
        part = {"source": source, "batch_size": 2, "transforms": [use("scale")]}
        return Spec(model="flat", data={"train": part, "test": part}, device="cpu", steps=1)
    if "x" in source.get("fields", ()):
        part = {"source": source, "batch_size": 2, "transforms": [use("pair")]}
        model = use("torch.nn:Linear", in_features=2, out_features=2)
        return Spec(model=model, data={"train": part, "test": part}, device="cpu", steps=1)
    transforms = [use("rename", names={"stars": "target"})] if "csv" in source["use"] else []
    transforms += [use("encode_labels", classes=["bad", "good"]), use("lengths")]
    part = {"source": source, "batch_size": 2, "transforms": transforms}
    return Spec(model=use("torch.nn:Linear", in_features=2, out_features=2), data={"train": part, "test": part}, device="cpu",
                steps=1)
"""
TEXTS, STARS = ["too bad", "oh so good", "so, so"], ["bad", "good", "bad"]


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "predicting.py"  # once: a process knows a recipe by one path
    path.write_text(RECIPE)
    return path


@pytest.fixture
def train_on(mapsto, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, dict[str, Any]], Path]:
    def train(folder: Path, source: dict[str, Any]) -> Path:
        monkeypatch.setenv("SOURCE", json.dumps(source))
        said = mapsto("train", recipe, "--run", folder / "r", "--quiet")
        assert said.code == 0, said.err
        return folder / "r"

    return train


def write_texts(path: Path, labelled: bool, text: str = "input", label: str = "stars") -> Path:
    """A file of TEXTS, with their numbers as `name`, in the format of its ending."""
    columns = {"name": [f"n{i}" for i in range(3)], text: TEXTS, **({label: STARS} if labelled else {})}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("fields", [None, {"input": "text", "stars": "stars"}])
def test_files_of_every_format_with_and_without_labels(mapsto, train_on, tmp_path, fields):
    text = "input" if fields is None else "text"
    trained_on = write_texts(tmp_path / "train.csv", True, text)
    source = {"use": "csv", "path": str(trained_on), **({"fields": {**fields, "name": "name"}} if fields else {})}
    run, found = train_on(tmp_path, source), []
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        for labelled in (True, False):
            path = write_texts(tmp_path / f"new.{ending}", labelled, text)
            said = mapsto("predict", run, "--input", path, "--keep", "input", "--id", "name", "--output", tmp_path / "p.jsonl")
            assert said.code == 0, said.err
            found.append(read(tmp_path / "p.jsonl"))
    for rows in found[1:]:
        assert rows == found[0]
    assert [row["name"] for row in found[0]] == ["n0", "n1", "n2"]
    assert [row["input"] for row in found[0]] == TEXTS
    assert [row["label_name"] for row in found[0]] == [["bad", "good"][row["label"]] for row in found[0]]
    assert mapsto("predict", run, "--output", tmp_path / "p.csv", "--keep", "input,stars").code == 0
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row)[:4] for row in rows] == [["record", "input", "stars", "label"]] * 3
    assert [row["input"] for row in rows] == TEXTS
    said = mapsto("predict", run, "--keep", "inputs", "--output", tmp_path / "p.csv")
    assert said.code == 1
    assert "--keep: the source has no field 'inputs'; allowed: input, name, stars; did you mean 'input'?" in said.err


def test_lines_of_text_without_labels_and_a_source_of_the_recipes_own(mapsto, train_on, tmp_path):
    (tmp_path / "train.txt").write_text("".join(f"{s} {t}\n" for s, t in zip(STARS, TEXTS, strict=True)))
    (tmp_path / "new.txt").write_text("\n".join(["too-bad", "oh-so-good"]))
    pattern = "(?P<target>bad|good) (?P<input>.*)"
    run = train_on(tmp_path, {"use": "text_lines", "path": str(tmp_path / "train.txt"), "pattern": pattern})
    for name, texts in (("train.txt", TEXTS), ("new.txt", ["too-bad", "oh-so-good"])):
        said = mapsto("predict", run, "--input", tmp_path / name, "--keep", "input", "--output", tmp_path / "p.parquet")
        assert said.code == 0, said.err
        assert pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "p.parquet")["input"].to_pylist() == texts
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.words").write_text("too bad|bad\nso good|good\n")
    (tmp_path / "own" / "new.words").write_text("so so\n")
    run = train_on(tmp_path / "own", {"use": "words", "path": str(tmp_path / "own" / "train.words")})
    said = mapsto(
        "predict", run, "--input", tmp_path / "own" / "new.words", "--keep", "input", "--output", tmp_path / "p.jsonl"
    )
    assert said.code == 0, said.err
    assert [row["input"] for row in read(tmp_path / "p.jsonl")] == ["so so"]
    path = write_texts(tmp_path / "own" / "new.csv", False)
    words = ["--source", "csv", "--keep", "name", "--output", tmp_path / "p.jsonl"]
    said = mapsto("predict", run, "--input", path, *words)
    assert said.code == 0, said.err
    assert [row["name"] for row in read(tmp_path / "p.jsonl")] == ["n0", "n1", "n2"]


def test_columns_are_read_as_they_were_in_training(mapsto, train_on, tmp_path):
    pytest.importorskip("pyarrow")
    source = {"use": "csv", "path": str(tmp_path / "train.csv"), "fields": ["x", "y", "target"]}
    (tmp_path / "train.csv").write_text("x,y,target\n0.5,1.5,0\n1,2,1\n")
    (tmp_path / "whole.csv").write_text("x,y\n1,2\n3,4\n")  # whole numbers, where training had fractions
    (tmp_path / "text.csv").write_text("x,y\n1,2\n3,four\n")
    run = train_on(tmp_path, source)
    said = mapsto("predict", run, "--input", tmp_path / "whole.csv", "--output", tmp_path / "p.jsonl")
    assert said.code == 0, said.err
    assert len(read(tmp_path / "p.jsonl")) == 2
    said = mapsto("predict", run, "--input", tmp_path / "text.csv", "--output", tmp_path / "p.jsonl")
    assert said.code == 1
    assert f"{tmp_path / 'text.csv'}:3: column 'y' holds 'four', which is not float32" in said.err
    np.savez(tmp_path / "text.npz", x=np.array(["a", "b"]), y=np.ones(2))
    said = mapsto("predict", run, "--input", tmp_path / "text.npz", "--output", tmp_path / "p.jsonl")
    assert said.code == 1
    assert "--input: field 'x' is <U1 [], and float32 [] in training" in said.err


def test_a_damaged_image_is_named_where_it_lies(mapsto, train_on, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in ("train/cat/a.png", "train/dog/b.png", "flat/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.new("L", (2, 2)).save(tmp_path / name)
    run = train_on(tmp_path, {"use": "image_folder", "path": str(tmp_path / "train"), "mode": "L"})
    (tmp_path / "flat/c.png").write_bytes(b"\x89PNG\r\n no image")
    said = mapsto("predict", run, "--input", tmp_path / "flat", "--output", tmp_path / "p.jsonl")
    assert said.code == 1
    assert str(tmp_path / "flat/c.png") in said.err
    assert "mapsto-input-" not in said.err


def test_folders_of_images_with_and_without_classes(mapsto, train_on, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for i, name in enumerate(["cat/a.png", "cat/b.png", "dog/c.png"]):
        for folder, path in (("train", name), ("flat", Path(name).name)):
            (tmp_path / folder / path).parent.mkdir(parents=True, exist_ok=True)
            image.new("L", (2, 2), 80 * i).save(tmp_path / folder / path)
    source = {"use": "image_folder", "path": str(tmp_path / "train"), "mode": "L", "classes": ["cat", "dog"]}
    run = train_on(tmp_path, source)
    found = []
    for folder in ("train", "flat"):
        words = ["--input", tmp_path / folder, "--keep", "file", "--output", tmp_path / "p.jsonl"]
        said = mapsto("predict", run, *words)
        assert said.code == 0, said.err
        found.append(read(tmp_path / "p.jsonl"))
        assert [Path(row["file"]).name for row in found[-1]] == ["a.png", "b.png", "c.png"]
    assert [row["probability"] for row in found[0]] == [row["probability"] for row in found[1]]
    assert {row["label_name"] for row in found[0]} <= {"cat", "dog"}


def test_the_names_of_labels_are_those_that_were_learned_whatever_folders_the_input_has(mapsto, train_on, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in ("train/cat/a.png", "train/dog/b.png", "new/dog/b.png", "new/eel/c.png", "flat/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.new("L", (2, 2), 80 * ("dog" in name)).save(tmp_path / name)
    run = train_on(tmp_path, {"use": "image_folder", "path": str(tmp_path / "train"), "mode": "L"})
    for folder in ("new", "flat"):
        words = ["--input", tmp_path / folder, "--keep", "file", "--output", tmp_path / "p.jsonl"]
        said = mapsto("predict", run, *words)
        assert said.code == 0, said.err
        for row in read(tmp_path / "p.jsonl"):
            assert row["label_name"] == ["cat", "dog"][row["label"]]
            assert Path(row["file"]).parent.parent in (tmp_path, tmp_path / "new")  # and no folder that is gone again
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    assert mapsto("predict", run, *words).code == 0
    assert all("label_name" not in row for row in read(tmp_path / "p.jsonl"))


def test_files_that_the_source_is_not_for(mapsto, train_on, tmp_path):
    pytest.importorskip("pyarrow")
    run = train_on(tmp_path, {"use": "csv", "path": str(write_texts(tmp_path / "train.csv", True))})
    said = mapsto("predict", run, "--input", tmp_path, "--output", tmp_path / "p.jsonl")
    assert said.code == 1
    assert f"--input: {tmp_path} is a folder, and csv reads files" in said.err
    np.savez(tmp_path / "new.npz", input=np.array(TEXTS))
    found = []
    for name in ("train.csv", "new.npz"):
        said = mapsto("predict", run, "--input", tmp_path / name, "--output", tmp_path / "p.jsonl")
        assert said.code == 0, said.err
        found.append(read(tmp_path / "p.jsonl"))
    assert found[0] == found[1]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no zip", lambda data: b""])
def test_a_damaged_npz_is_named(mapsto, trained, tmp_path, damage):
    np.savez(tmp_path / "new.npz", input=np.ones((2, 2)))
    (tmp_path / "new.npz").write_bytes(damage((tmp_path / "new.npz").read_bytes()))
    said = mapsto("predict", trained, "--input", tmp_path / "new.npz", "--output", tmp_path / "p.jsonl")
    assert said.code == 1
    assert said.err.startswith(f"error: npz: {tmp_path / 'new.npz'} cannot be read: ")


def test_predictions_that_are_not_finite_are_told(mapsto, trained, tmp_path):
    np.savez(tmp_path / "new.npz", input=np.array([[0, 1], [np.nan, 1]], np.float32))
    said = mapsto("predict", trained, "--input", tmp_path / "new.npz", "--output", tmp_path / "p.jsonl")
    assert "1 of 2 records have predictions that are not finite" in said.err
    assert "finite" not in mapsto("predict", trained, "--output", tmp_path / "p.jsonl").err
