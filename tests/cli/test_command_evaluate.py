"""`mapsto evaluate` and `mapsto report`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mapsto import Run


def test_metrics_of_the_last_checkpoint(mapsto, trained):
    said = mapsto("evaluate", trained)
    assert said.code == 0, said.err
    expected = Run.resume(trained).evaluate("test")
    assert dict(line.split() for line in said.out.splitlines()[1:]) == {k: f"{v:.6g}" for k, v in expected.items()}
    assert f"{trained}, step 6, data.test (5 records)" in said.err


def test_without_test_it_takes_valid_and_says_so(mapsto, spec, tmp_path):
    plain = tmp_path / "plain.yaml"
    plain.write_text(Path(spec).read_text().replace("  test: *table\n", ""))
    assert mapsto("train", plain, "--run", tmp_path / "run", "--quiet").code == 0
    said = mapsto("evaluate", tmp_path / "run", "--json")
    assert "the spec has no data.test: data.valid is evaluated" in said.err
    assert json.loads(said.out)["data"] == "valid"


def test_json_for_scripts(mapsto, trained):
    found = json.loads(mapsto("evaluate", trained, "--data", "valid", "--checkpoint", "3", "--json").out)
    assert (found["run"], found["data"], found["step"]) == (str(trained), "valid", 3)
    assert found["metrics"] == Run.resume(trained, checkpoint=3).evaluate("valid")
    assert found["metrics"] != json.loads(mapsto("evaluate", trained, "--data", "valid", "--json").out)["metrics"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data", "tset"], "did you mean 'test'?"),
        (["--checkpoint", "5"], "there is no checkpoint '5'"),
    ],
)
def test_wrong_names(mapsto, trained, words, told):
    said = mapsto("evaluate", trained, *words)
    assert said.code == 1
    assert told in said.err


def test_a_folder_without_a_run(mapsto, tmp_path):
    for verb in ("evaluate", "report"):
        said = mapsto(verb, tmp_path)
        assert said.code == 1
        assert "no spec.yaml" in said.err or "no run" in said.err or "not the folder of a run" in said.err


def test_a_damaged_checkpoint(mapsto, trained):
    for file in (trained / "checkpoints").glob("*/tensors.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    said = mapsto("evaluate", trained)
    assert said.code == 1
    assert "tensors.safetensors" in said.err


def test_report_writes_it_anew(mapsto, trained):
    (trained / "report.html").unlink()
    said = mapsto("report", trained)
    assert said.out == f"{trained / 'report.html'}\n"
    assert (trained / "report.html").is_file()


def test_report_opens_it(mapsto, trained, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    assert mapsto("report", trained, "--open").err == ""
    assert opened == [(trained / "report.html").as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    assert "no browser" in mapsto("report", trained, "--open").err


def test_report_of_several(mapsto, trained, spec, tmp_path):
    assert mapsto("train", spec, "optimizer.lr=0.5", "--run", tmp_path / "second", "--quiet").code == 0
    said = mapsto("report", trained, tmp_path / "second", "--output", tmp_path / "both.html")
    assert said.code == 0, said.err
    assert "second" in (tmp_path / "both.html").read_text()
