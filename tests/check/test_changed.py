"""What a git diff touches: imports of every form and depth, uncommitted and unknown files, and errors that are one line."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

from mapsto.check import runner
from mapsto.check.changed import changes
from mapsto.check.targets import files_of, of_spec, subjects
from mapsto.cli import main
from mapsto.core.errors import SpecError

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
GADGETS = Path(__file__).with_name("gadgets.py")
FILES = {
    "src/pack/__init__.py": "",
    "src/pack/gates.py": "from .deep import helper\nimport torch\n",
    "src/pack/deep/__init__.py": "",
    "src/pack/deep/helper.py": "from ..constants import WIDTH\n",
    "src/pack/constants.py": "WIDTH = 3\n",
    "src/pack/lazy.py": "def f():\n    import pack.constants as c\n",
    "src/pack/alone.py": "import json\n",
    "src/pack/circle.py": "from pack import round\n",
    "src/pack/round.py": "from pack import circle\n",
    "src/pack/broken.py": "def (:\n",
    "recipes/recipe.py": "import beside\n",
    "recipes/beside.py": "",
    "notes.md": "",
}


def git(*words: str) -> str:
    known = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *known, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    return tmp_path


def touched(project: Path, since: str | None = None) -> set[str]:
    found = changes(since)
    return {name for name in FILES if found.touch([str(project / name)])}


USERS = {
    "src/pack/constants.py": {"constants", "helper", "gates", "lazy"},
    "src/pack/deep/helper.py": {"helper", "gates"},
    "src/pack/deep/__init__.py": {"deep/__init__", "gates"},
    "src/pack/alone.py": {"alone"},
    "src/pack/round.py": {"round", "circle"},
    "src/pack/broken.py": {"broken"},
    "recipes/beside.py": {"beside", "recipe"},
    "notes.md": {"notes.md"},
}


@pytest.mark.parametrize("name", USERS)
def test_what_imports_a_changed_file_is_touched(project, name):
    assert touched(project) == set()
    (project / name).write_text("changed = 1\n")
    wanted = {f for f in FILES if any(f.endswith((f"{user}.py", user)) for user in USERS[name])}
    assert touched(project) == wanted


def test_a_package_is_run_by_whatever_is_imported_from_it(project):
    (project / "src/pack/__init__.py").write_text("changed = 1\n")
    assert {"src/pack/gates.py", "src/pack/lazy.py", "src/pack/circle.py"} <= touched(project)
    assert "recipes/recipe.py" not in touched(project)


@pytest.mark.parametrize("state", ["committed", "staged", "deleted", "unknown", "moved"])
def test_changes_of_every_state_count_from_every_folder(project, monkeypatch, state):
    git("checkout", "-qb", "branch")
    if state == "unknown":
        (project / "recipes/beside").mkdir()
        (project / "recipes/beside/__init__.py").write_text("")
    elif state == "deleted":
        (project / "recipes/beside.py").unlink()
    elif state == "moved":
        git("mv", "recipes/beside.py", "recipes/other.py")
    else:
        (project / "recipes/beside.py").write_text("changed = 1\n")
        git("add", "-A")
    if state == "committed":
        git("commit", "-qm", "second")
        assert touched(project, "HEAD") == set()
    monkeypatch.chdir(project / "src")
    assert "recipes/recipe.py" in touched(project)
    assert "src/pack/gates.py" not in touched(project)


def test_a_branch_is_compared_with_where_it_left_the_main_one(project):
    git("checkout", "-qb", "branch")
    (project / "src/pack/alone.py").write_text("changed = 1\n")
    git("commit", "-qam", "on the branch")
    git("checkout", "-q", "main")
    (project / "recipes/beside.py").write_text("changed = 1\n")
    git("commit", "-qam", "on main, later")
    assert touched(project) == set()
    git("checkout", "-q", "branch")
    assert touched(project) == touched(project, "main") == {"src/pack/alone.py"}


def test_what_is_installed_in_the_work_tree_is_not_of_the_project(project):
    (project / ".gitignore").write_text("venv\n")
    (project / "venv").mkdir()
    (project / "venv/json.py").write_text("")
    assert not changes().touch([str(project / "venv/json.py")])


def test_before_the_first_commit_everything_is_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    (tmp_path / "a.py").write_text("")
    assert changes("HEAD").touch([str(tmp_path / "a.py")])


@pytest.mark.parametrize("since", ["layer.py:Gate", "nowhere", "--all"])
def test_what_is_no_commit_is_told(project, since):
    with pytest.raises(SpecError, match="is no commit here"):
        changes(since)


def test_histories_that_never_met_are_told(project):
    git("checkout", "-q", "--orphan", "other")
    git("commit", "-qm", "another first")
    with pytest.raises(SpecError, match="no common ancestor here; in a shallow clone, fetch the whole history"):
        changes()


def test_outside_of_a_repository_there_is_one_clear_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert main(["check", "adamw", "--changed"]) == 1
    said = capsys.readouterr()
    assert "--changed: this is no work tree of git" in said.err
    assert (said.out, len(said.err.splitlines())) == ("", 1)


def test_without_git_there_is_one_clear_error(project, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SpecError, match="git is not installed"):
        changes()


# -- the command -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def served():
    with runner.server(2) as made:
        yield made


TARGET = f"""
from mapsto.core.recipes import load_file
import {{helper}}

Gadget = load_file({str(GADGETS)!r}).Gadget


class Thing(Gadget): ...
"""


@pytest.mark.parametrize("changed", ["changed_one.py", "changed_one_helper.py", "notes.txt", "setup.py", None])
def test_only_what_is_touched_is_judged(project, monkeypatch, served, capsys, changed):
    monkeypatch.setattr(runner, "server", lambda jobs: nullcontext(served))
    for name in ("changed_one", "changed_two"):
        (project / f"{name}_helper.py").write_text("")
        (project / f"{name}.py").write_text(TARGET.format(helper=f"{name}_helper"))
    git("add", "-A")
    git("commit", "-qm", "second")
    if changed is not None:
        with open(project / changed, "a") as file:
            file.write("\n# changed\n")
    words = [*(f"{project}/{name}.py:Thing" for name in ("changed_one", "changed_two")), "--kind", "gadget", "--laws", "works"]
    assert main(["check", *words, "--changed"]) == 0
    said = capsys.readouterr()
    if changed is not None and changed.startswith("changed_one"):
        assert "1 verdicts on 1 mapping: 1 pass" in said.out
        assert "--changed: 1 of 2 mappings are touched since" in said.err
    else:
        assert "nothing was touched, and so nothing was judged" in said.out
    assert main(["check", *words, "--changed=HEAD", "--json", "a.jsonl"]) == 0


def test_a_part_of_a_spec_is_defined_by_the_spec_its_own_file_and_the_parts_within_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(
        "name: parts\nmodel: {use: 'torch.nn:Linear', in_features: 2, out_features: 2}\n"
        "task: {use: regression, loss: {use: huber, delta: 0.5}}\nepochs: 1\n"
        "data: {train: {source: {use: arrays, input: [[0.0, 1.0]], target: [[1.0, 0.0]]}, batch_size: 1}}\n"
    )
    found = {s.label: {Path(file).name for file in files_of(s)} for s in of_spec("spec.yaml")}
    assert all("spec.yaml" in files for files in found.values())
    assert "linear.py" in found["model"] & found["parts"]
    assert "arrays.py" in found["data.train.source"] & found["data.train"] & found["parts"]
    assert "arrays.py" not in found["model"] | found["task"]


def test_a_class_is_defined_by_the_files_of_its_bases_too():
    (adam,) = subjects(["torch.optim:AdamW"])
    assert {Path(file).name for file in files_of(adam)} >= {"adamw.py", "adam.py", "optimizer.py"}
