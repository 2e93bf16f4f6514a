"""`mapsto train SPEC --folds K`: a run a fold, their means, going on after an interruption."""

from __future__ import annotations

import json
import shutil
import statistics
from dataclasses import replace

import numpy as np
import pytest

from mapsto import load_spec, use
from mapsto.cli.ensemble import averaged, same_labels
from mapsto.cli.folds import numbered
from mapsto.core.errors import DataError
from mapsto.data import Batches, EncodeLabels

SPEC = """\
name: rows
model: {{use: "torch.nn:Linear", in_features: 3, out_features: 1}}
task: {{use: regression, metrics: [rmse]}}
optimizer: {{use: sgd, lr: 0.05}}
data:
  train:
    source: {{use: fold, part: rest, fold: 1, of: 2, source: {{use: csv, path: {path}, fields: {{input: x, target: y}}}}}}
    transforms: [{{use: "columns:columns"}}]
    batch_size: 8
  {name}:
    source: {{use: fold, part: held_out, fold: 1, of: 2, source: {{use: csv, path: {path}, fields: {{input: x, target: y}}}}}}
    transforms: [{{use: "columns:columns"}}]
    batch_size: 8
imports: [{recipe}]
steps: 6
device: cpu
"""


@pytest.fixture
def rows(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.standard_normal(30)
    (tmp_path / "rows.csv").write_text("x,y\n" + "\n".join(f"{a},{2 * a + 0.1 * b}" for a, b in zip(x, x[::-1], strict=True)))
    (tmp_path / "columns.py").write_text(
        "import numpy as np\n\n\ndef columns(batch):\n"
        '    x = np.asarray(batch["input"], np.float32)\n'
        '    return {"input": np.stack([x, x**2, x**3], 1), "target": np.asarray(batch["target"], np.float32)[:, None]}\n'
    )

    def spec(name="valid"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(SPEC.format(path=tmp_path / "rows.csv", recipe=tmp_path / "columns.py", name=name))
        return file

    return spec


@pytest.mark.parametrize("name", ["valid", "test"])
def test_each_fold_is_a_run_and_the_means_are_those_of_its_runs(mapsto, rows, tmp_path, name):
    found = mapsto("train", rows(name), "--folds", 3, "--run", tmp_path / "cv", "--quiet", "seed=4")
    assert found.code == 0, found.err
    told = json.loads((tmp_path / "cv/folds.json").read_text())
    assert told["folds"] == 3
    each = []
    for number in (1, 2, 3):
        run = tmp_path / f"cv/fold-{number}"
        spec = load_spec(str(run))
        assert spec.seed == 4
        assert spec.data["train"].args["source"].args["fold"] == number
        assert spec.data[name].args["source"].args["of"] == 3
        asked = mapsto("evaluate", run, "--data", name, "--json")
        each.append(json.loads(asked.out)["metrics"]["rmse"])
    assert told["metrics"][f"{name}/rmse"]["values"] == pytest.approx(each, rel=1e-6)
    assert told["metrics"][f"{name}/rmse"]["mean"] == pytest.approx(statistics.fmean(each), rel=1e-6)
    assert told["metrics"][f"{name}/rmse"]["deviation"] == pytest.approx(statistics.stdev(each), rel=1e-5)
    assert len(set(each)) == 3, "the folds differ"
    assert f"{name}/rmse" in found.out
    assert (tmp_path / "cv/comparison.html").exists()


def test_what_is_trained_stays_and_the_rest_is_gone_on_with(mapsto, rows, tmp_path):
    words = ["train", rows(), "--folds", 2, "--run", tmp_path / "cv", "--quiet"]
    assert mapsto(*words).code == 0
    whole = json.loads((tmp_path / "cv/folds.json").read_text())
    kept = (tmp_path / "cv/fold-1/checkpoints").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "cv/fold-2")
    refused = mapsto(*words)
    assert refused.code == 1
    assert "is not empty: --continue goes on with the folds that are there" in refused.err
    assert mapsto(*words, "--continue").code == 0
    assert (tmp_path / "cv/fold-1/checkpoints").stat().st_mtime_ns == kept
    assert json.loads((tmp_path / "cv/folds.json").read_text()) == whole


def test_a_fold_that_fails_ends_it_and_says_how_to_go_on(mapsto, rows, tmp_path):
    found = mapsto("train", rows(), "--folds", 40, "--run", tmp_path / "cv", "--quiet")
    assert found.code == 1
    assert "fold 1 of 40 ended with 1. Go on with" in found.err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--folds", "1"], 2, "there are at least 2"),
        (["--folds", "3", "--nodes", "2"], 2, "--nodes goes with a run of its own"),
        (["--folds", "3", "data.train.source.use=split", "data.valid.source.use=split"], 1, None),
    ],
)
def test_folds_that_cannot_be_are_one_line(mapsto, rows, words, code, told):
    found = mapsto("train", rows(), *words)
    assert found.code == code
    assert told is None or told in found.err


def test_a_spec_without_folds_is_told_how_to_have_them(mapsto, spec):
    found = mapsto("train", spec, "--folds", 3)
    assert found.code == 1
    assert "--folds numbers the `fold` sources of a spec's data, and it has none" in found.err


def test_of_folds_within_folds_those_nearest_to_the_data_are_numbered(rows):
    spec = load_spec(str(rows()))
    inner = spec.data["train"].args["source"]
    outer = use("fold", source=inner, part="rest", fold=2, of=4)
    assert list(numbered(spec)) == ["data.train.source", "data.valid.source"]
    both = replace(spec, data={"train": use("batches", source=outer, batch_size=4)})
    assert list(numbered(both)) == ["data.train.source.source"]


def test_the_folds_predict_together_by_their_mean(mapsto, rows, tmp_path):
    spec, folder = rows(), tmp_path / "cv"
    assert mapsto("train", spec, "--folds", 3, "--run", folder, "--quiet").code == 0
    new = tmp_path / "rows.csv"
    words = ("--data", "valid", "--input", new, "--quiet", "--trust", "--output")
    for name in ("cv", "cv/fold-1", "cv/fold-2", "cv/fold-3"):
        told = mapsto("predict", tmp_path / name, *words, tmp_path / f"{name.replace('/', '-')}.jsonl")
        assert told.code == 0, told.err
    values = {
        file.stem: [json.loads(line)["value"] for line in file.read_text().splitlines()] for file in tmp_path.glob("cv*.jsonl")
    }
    singly = np.array([values[f"cv-fold-{number}"] for number in (1, 2, 3)])
    assert np.allclose(values["cv"], singly.mean(0), rtol=1e-6)
    assert not np.allclose(singly[0], singly[1], rtol=1e-3)
    refused = mapsto("predict", folder, "--data", "valid", "--output", tmp_path / "p.jsonl", "--trust")
    assert refused.code == 1
    assert "data.valid is another fold in each run: predict over --input" in refused.err


def test_the_label_of_several_runs_is_that_of_their_mean_probability():
    first = {"label": np.array([0, 1]), "probability": np.array([[0.6, 0.4], [0.1, 0.9]], np.float32)}
    second = {"label": np.array([1, 1]), "probability": np.array([[0.1, 0.9], [0.3, 0.7]], np.float32)}
    (found,) = averaged([iter([first]), iter([second])])
    assert found["label"].tolist() == [1, 1]
    assert np.allclose(found["probability"], [[0.35, 0.65], [0.2, 0.8]])
    with pytest.raises(DataError, match="'label' of several runs has no mean"):
        list(averaged([iter([{**first, "label": np.array([1, 0])}]), iter([second])]))
    with pytest.raises(DataError, match="'token' of several runs has no mean"):
        list(averaged([iter([{"token": np.array([1])}]), iter([{"token": np.array([2])}])]))


def test_runs_that_number_their_labels_differently_have_no_mean():
    def reader(labels):
        return Batches({"target": np.arange(2)}, 1, transforms=[EncodeLabels(labels)])

    same_labels([reader(["a", "b"]), reader(["a", "b"])])
    with pytest.raises(DataError, match="labels of fold 1 and fold 2 are others: state the classes"):
        same_labels([reader(["a", "b"]), reader(["a", "c"])])
