"""`mapsto doctor`: findings for people and for programs, and exit codes that tell them apart."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mapsto.cli.doctor import FOUND


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run in torch."""
    from mapsto import Run, Spec, use

    target = np.arange(24) % 3
    inputs = np.eye(3, 4)[target] + 0.05 * np.random.default_rng(0).normal(size=(24, 4))
    source = use("arrays", input=inputs.astype("float32"), target=target)
    data = {"train": {"source": source, "batch_size": 6, "shuffle": True}}
    folder = tmp_path_factory.mktemp("doctor") / "run"
    plan = {"every": 12, "keep": None, "best": 0}
    model = use("torch.nn:Linear", in_features=4, out_features=3)
    Run(Spec(model=model, data=data, steps=24, log_every=2, checkpoint=plan, device="cpu"), folder).fit()
    return folder


def test_a_healthy_run_ends_with_0_and_says_what_was_looked_at(mapsto, trained):
    said = mapsto("doctor", trained)
    assert said.code == 0, said.out
    assert said.out.startswith(f"{trained} (finished): healthy: nothing was found\nlooked at: how it ended, ")
    assert "not looked at: times by rank: one process" in said.out


def test_findings_end_with_3_and_each_has_its_evidence(mapsto, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    (newest / "state.json").unlink()
    said = mapsto("doctor", tmp_path / "run")
    assert said.code == FOUND == 3
    assert said.out.startswith("wrong: 1 checkpoint is damaged or missing: step-00000024  [checkpoints_damaged]\n")
    assert f"  at {newest / 'manifest.json'}\n" in said.out
    assert f"  try: go on from an intact one: mapsto train --resume {newest.with_name('step-00000012')}" in said.out
    assert said.out.endswith(f"{tmp_path / 'run'} (finished): 1 finding\n")
    assert "looked at" not in said.out
    told = mapsto("doctor", tmp_path / "run", "--all").out
    assert "[slow_rank]" in told
    assert "looked at" in told


def test_json_holds_the_same(mapsto, trained, tmp_path):
    found = json.loads(mapsto("doctor", trained, "--json").out)
    assert (found["healthy"], found["findings"], found["status"]) == (True, [], "finished")
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1])
    said = mapsto("doctor", tmp_path / "run", "--json")
    assert said.code == FOUND
    (finding,) = json.loads(said.out)["findings"]
    assert (finding["name"], finding["gravity"]) == ("checkpoints_damaged", "wrong")
    assert finding["values"] == {"damaged": ["step-00000024"], "intact": ["step-00000012"]}


def test_notes_alone_end_with_0(mapsto, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    told = json.loads((tmp_path / "run" / "data.json").read_text())
    told["sets"]["train"]["repeats"]["repeats"] = 2
    (tmp_path / "run" / "data.json").write_text(json.dumps(told))
    said = mapsto("doctor", tmp_path / "run")
    assert said.code == 0
    assert said.out.startswith("note: 8 % of the training records repeat the input of another one  [records_repeated]\n")
    assert said.out.endswith(f"{tmp_path / 'run'} (finished): healthy: 1 note\n")


def test_what_was_written_of_the_data_may_be_anything(mapsto, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for text in (
        '{"sets": {"train": 3}}',
        "[1]",
        "{",
        '{"inputs": [], "target": "t", "stated": true, "sets": {}}',
        "\xff",
        "null",
    ):
        (tmp_path / "run" / "data.json").write_bytes(text.encode("latin-1"))
        said = mapsto("doctor", tmp_path / "run", "--all")
        damaged = f"{tmp_path / 'run' / 'data.json'} is corrupt: " in said.out
        assert said.code == (FOUND if damaged else 0), said.out + said.err
        assert damaged == (not text.startswith("{") or text == "{")
        assert "not looked at: labels within the input: " in said.out


def test_a_folder_without_a_run_is_an_error(mapsto, tmp_path):
    said = mapsto("doctor", tmp_path)
    assert said.code == 1
    assert "is not the folder of a run: it has no spec.yaml" in said.err
