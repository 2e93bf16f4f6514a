"""Whose code runs: that of a stranger's run folder does not, unless its reader says so; what is registered always does."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from mapsto.core.trust import trusted_file

DATA = "data: {train: {source: {use: arrays, input: [[1.0]], target: [0]}, batch_size: 1}}\nsteps: 1\ndevice: cpu\n"


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    """A user who has trusted nothing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


@pytest.fixture
def ran(tmp_path) -> Path:
    """What a stranger's code leaves where it ran."""
    return tmp_path / "RAN"


def strangers(tmp_path: Path, ran: Path) -> dict[str, str]:
    """Specs of a stranger: what each names leaves the file `ran` when it is imported, or called."""
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    (tmp_path / "evil_module.py").write_text(f"open({str(ran)!r}, 'w')\nthing = print\n")
    linear = 'model: {use: "torch.nn:Linear", in_features: 1, out_features: 2}\n'
    return {
        "called": f'model: {{use: "os:system", command: "touch {ran}"}}\n' + DATA,
        "imported": linear + DATA + f"imports: [{tmp_path / 'evil.py'}]\n",
        "a name alone": linear + DATA + 'task: "evil_module:thing"\n',
        "within a registered part": linear + DATA + "observers: [{use: progress, console: {reference: 'evil_module:thing'}}]\n",
        "in an override of a default": linear
        + DATA.replace("batch_size: 1", "batch_size: 1, transforms: ['evil_module:thing']"),
    }


CASES = ["called", "imported", "a name alone", "within a registered part", "in an override of a default"]


@pytest.fixture(params=CASES)
def stranger(request, tmp_path, ran, monkeypatch) -> Path:
    """A stranger's run folder."""
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "spec.yaml").write_text(strangers(tmp_path, ran)[request.param])
    return folder


def test_reading_a_stranger_s_folder_runs_nothing_of_it(mapsto, stranger, ran):
    for words in (["show"], ["show", "--yaml"], ["report"], ["doctor"], ["consolidate"]):
        said = mapsto(words[0], stranger, *words[1:])
        assert not ran.exists(), words
        assert said.code == {"consolidate": 1}.get(words[0], said.code)
    assert "names code that you have not trusted" in mapsto("show", stranger).out


@pytest.mark.parametrize("verb", ["train", "plan", "evaluate", "predict", "resume", "check"])
def test_building_from_it_is_refused_with_what_it_names(mapsto, stranger, ran, verb, tmp_path):
    words = {"predict": ["--output", tmp_path / "p.jsonl"], "train": ["--run", tmp_path / "run"]}.get(verb, [])
    said = mapsto(*(["train", "--resume", stranger] if verb == "resume" else [verb, stranger, *words]))
    assert said.code == 1
    assert f"error: {stranger} names code that you have not trusted: " in said.err
    assert "say --trust" in said.err
    assert not ran.exists()
    assert not trusted_file().exists()


def test_said_once_it_is_trusted_and_another_s_is_not(mapsto, tmp_path, ran):
    for name in ("one", "same", "other"):
        (tmp_path / name).mkdir()
        text = 'model: {use: "torch.nn:Linear", in_features: 1, out_features: 2}\n' + DATA
        (tmp_path / name / "spec.yaml").write_text(
            text.replace("out_features: 2", "out_features: 3") if name == "other" else text
        )
    assert "plan, outermost first" in mapsto("show", tmp_path / "one", "--trust").out
    assert "plan, outermost first" in mapsto("show", tmp_path / "one").out
    assert "plan, outermost first" in mapsto("show", tmp_path / "same").out
    assert "not trusted" in mapsto("show", tmp_path / "other").out
    assert stat.S_IMODE(os.stat(trusted_file()).st_mode) == 0o600
    assert len(trusted_file().read_text().split()) == 1


def test_a_trusted_recipe_that_changes_is_not_trusted_any_more(mapsto, tmp_path):
    recipe = tmp_path / "trust_recipe.py"
    recipe.write_text("import mapsto\n")
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "spec.yaml").write_text(f"model: null\n{DATA}imports: [{recipe}]\n")
    mapsto("show", folder, "--trust")
    assert "not trusted" not in mapsto("show", folder).out
    recipe.write_text("import mapsto  # and more\n")
    assert "not trusted" in mapsto("show", folder).out


def test_what_one_has_trained_is_one_s_own_also_when_it_was_moved(mapsto, spec, tmp_path):
    assert mapsto("train", spec, "--run", tmp_path / "run", "--quiet").code == 0
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert mapsto("evaluate", tmp_path / "moved").code == 0
    assert mapsto("train", "--resume", tmp_path / "moved", "epochs=3", "--quiet").code == 0


def test_a_folder_of_registered_names_needs_no_trust(mapsto, tmp_path):
    (tmp_path / "spec.yaml").write_text("model: null\n" + DATA)
    said = mapsto("show", tmp_path)
    assert said.err == f"error: {tmp_path / 'spec.yaml'}: model: null, and a part is wanted\n"


@pytest.mark.parametrize("verb", ["show", "train", "plan"])
def test_of_a_yaml_file_it_is_said_once_what_is_run(mapsto, spec, tmp_path, verb):
    said = mapsto(verb, spec, *(["--run", tmp_path / "run", "--quiet"] if verb == "train" else []))
    assert said.code == 0
    assert said.err.count(f"{spec} names code that is not registered and is run: torch.nn:Linear (model)\n") == 1


def test_a_recipe_is_code_that_its_user_names_and_nothing_is_said(mapsto, tmp_path):
    recipe = tmp_path / "own_recipe.py"
    recipe.write_text(
        "from torch import nn\nfrom mapsto import Spec, use\n\n\ndef spec():\n"
        "    source = use('arrays', input=[[1.0]], target=[0])\n"
        "    data = {'train': {'source': source, 'batch_size': 1}}\n"
        "    return Spec(model=use(nn.Linear, in_features=1, out_features=2), data=data)\n"
    )
    said = mapsto("show", recipe)
    assert (said.code, said.err) == (0, "")


@pytest.mark.parametrize("way", ["option", "environment"])
def test_registered_names_only(mapsto, stranger, ran, monkeypatch, way, tmp_path):
    if way == "environment":
        monkeypatch.setenv("MAPSTO_REGISTERED_ONLY", "1")
    file = tmp_path / "s.yaml"
    shutil.copy(stranger / "spec.yaml", file)
    for words in (["show", file], ["show", stranger], ["plan", file], ["train", file, "--run", tmp_path / "run"]):
        said = mapsto(*words, *(["--registered-only"] if way == "option" else []))
        assert said.code == 1
        assert "is code that is not registered, and --registered-only (MAPSTO_REGISTERED_ONLY) allows names alone" in said.err
        assert not ran.exists()
    if way == "option":
        assert "MAPSTO_REGISTERED_ONLY" not in os.environ


def test_registered_names_alone_are_built(mapsto, tmp_path, monkeypatch):
    import torch
    from torch import nn

    import mapsto as door
    from mapsto.core.registry import registry

    monkeypatch.setattr(registry, "_decorated", dict(registry._decorated))
    door.model("line")(lambda: nn.Linear(1, 2, dtype=torch.float64))
    file = tmp_path / "s.yaml"
    file.write_text("model: line\n" + DATA)
    said = mapsto("train", file, "--registered-only", "--run", tmp_path / "run", "--quiet")
    assert (said.code, said.err) == (0, "")


def test_a_module_beside_a_trusted_recipe_is_code_too(mapsto, tmp_path):
    recipe, beside = tmp_path / "beside_recipe.py", tmp_path / "beside_module.py"
    recipe.write_text("import beside_module\n")
    beside.write_text("import mapsto\n")
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "spec.yaml").write_text(f"model: null\n{DATA}imports: [{recipe}]\n")
    mapsto("show", folder, "--trust")
    assert "not trusted" not in mapsto("show", folder).out
    beside.write_text("import mapsto, os\n")
    assert f"imports  {beside}" in mapsto("show", folder).out
