"""A run folder holds the recipe it was made with, and what that imports from beside it: nothing else is needed to go on."""

from __future__ import annotations

import shutil
import sys

import pytest
from runs import fit, numpy_spec

from mapsto.core import recipes
from mapsto.core.errors import CheckpointError, SpecError
from mapsto.core.load_spec import load_spec
from mapsto.engine.folder import RunFolder
from mapsto.engine.run import Run

RECIPE = """
import mapsto
from runs import numpy_spec
from near import scaled

def spec():
    data = {"train": {"source": {"use": "runs:Blobs"}, "batch_size": 9, "transforms": [scaled]},
            "valid": {"source": {"use": "runs:Blobs"}, "batch_size": 9, "transforms": [scaled]}}
    return numpy_spec(data=data, steps=4)
"""
NEAR = "def scaled(batch):\n    return {**batch, 'input': batch['input'] * %s}\n"


@pytest.fixture
def anew(monkeypatch):
    """A function that forgets what was loaded, as a new process would."""
    monkeypatch.setattr(recipes, "_LOADED", {})

    def forget():
        recipes._LOADED.clear()
        for name in [n for n in sys.modules if n.startswith("recipe_")]:
            monkeypatch.delitem(sys.modules, name)

    forget()
    return forget


@pytest.fixture
def made(tmp_path, anew):
    """The folder of a recipe, of which there is a run."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "made.py").write_text(RECIPE)
    (folder / "near.py").write_text(NEAR % 2)
    fit(load_spec(str(folder / "made.py")), tmp_path / "run")
    anew()
    return folder


def notes_of(run):
    told = []
    run.observers = (told.append,)
    run.fit()
    return told[0].detail["resumed"]["notes"]


def test_both_files_are_kept_and_hashed(made, tmp_path):
    told = RunFolder(tmp_path / "run").environment()["recipes"]
    assert {path for path in told if str(made) in path} == {str(made / "made.py"), str(made / "near.py")}
    assert {p.name.partition("-")[0] for p in (tmp_path / "run/recipes").iterdir()} >= {"made", "near"}


@pytest.mark.parametrize("state", ["as it was", "changed", "gone"])
def test_the_run_goes_on_and_is_evaluated_with_what_it_has_kept(made, tmp_path, anew, state):
    expected = Run.resume(tmp_path / "run").evaluate("valid")
    anew()
    if state == "changed":
        (made / "near.py").write_text(NEAR % 3)
    if state == "gone":
        shutil.rmtree(made)
    run = Run.resume(tmp_path / "run", "steps=6")
    assert run.evaluate("valid") == expected
    notes = [note for note in notes_of(run) if "near.py" in note]
    what = {"as it was": [], "changed": ["was changed"], "gone": ["is gone"]}[state]
    assert [f"{made / 'near.py'} {said} since, and is taken as the run has kept it" for said in what] == [
        note.partition(":")[0] for note in notes
    ]
    anew()
    assert len(notes_of(Run.resume(tmp_path / "run", "steps=7"))) >= 1  # what was kept is kept on


def test_a_changed_file_is_taken_where_that_is_said(made, tmp_path):
    (made / "near.py").write_text(NEAR % 3)
    notes = notes_of(Run.resume(tmp_path / "run", "steps=6", recipes_changed=True))
    assert any(f"{made / 'near.py'} was changed since, and is taken as it is now; as it was: " in note for note in notes)


def test_another_state_of_it_in_the_same_process_is_an_error(made, tmp_path):
    (made / "near.py").write_text(NEAR % 3)
    load_spec(str(made / "made.py"))
    with pytest.raises(SpecError, match=r"near\.py is loaded already, and not as the run has kept it"):
        Run.resume(tmp_path / "run")


def test_a_copy_that_was_changed_is_refused(made, tmp_path):
    (copy,) = (tmp_path / "run/recipes").glob("near-*")
    copy.write_text(NEAR % 4)
    with pytest.raises(CheckpointError, match=rf"{copy} is corrupt"):
        Run.resume(tmp_path / "run")


def test_a_spec_in_yaml_with_imports_keeps_their_neighbours_too(tmp_path, anew):
    (tmp_path / "parts.py").write_text("from near import scaled\n")
    (tmp_path / "near.py").write_text(NEAR % 2)
    text = numpy_spec(steps=2).override("data.train.transforms=[recipe_near:scaled]").to_yaml()
    (tmp_path / "spec.yaml").write_text(text + "imports: [parts.py]\n")
    fit(load_spec(str(tmp_path / "spec.yaml")), tmp_path / "run")
    anew()
    for name in ("parts", "near"):
        (tmp_path / f"{name}.py").unlink()
    assert Run.resume(tmp_path / "run", "steps=3").fit().steps == 3
