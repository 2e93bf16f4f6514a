"""A recipe imports what stands beside it, as any script does, and gets its own."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import textwrap

import pytest

from mapsto.core import recipes
from mapsto.core.errors import SpecError
from mapsto.core.recipes import Recipe, load_file, load_recipes, loaded_recipes, module_name


@pytest.fixture(autouse=True)
def own_modules(monkeypatch):
    """What a test loads is forgotten after it."""
    monkeypatch.setattr(recipes, "_LOADED", dict(recipes._LOADED))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("recipe_"):
            del sys.modules[name]


def written(folder, **files):
    """The folder with files in it: `a` is a.py, `a__b` is a/b.py."""
    for name, text in files.items():
        file = folder / (name.replace("__", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return folder


def test_a_module_a_package_and_a_folder_of_modules(tmp_path):
    written(
        tmp_path,
        first="""
            import bare.inside
            import pack.deep as deep
            from near import value, later
            from pack import sub
            from bare import other
        """,
        near="""
            value = 1
            def later():
                import lazy
                return lazy.value
        """,
        lazy="from near import value",
        bare__inside="value = 3",
        bare__other="value = 4",
        pack__deep="from near import value as near\nfrom .sub import value",
        pack__sub="value = 2",
    )
    (tmp_path / "pack/__init__.py").write_text("from . import sub\n")
    made = load_file(tmp_path / "first.py")
    assert (made.value, made.sub.value, made.deep.near, made.deep.value) == (1, 2, 1, 2)
    assert (made.bare.inside.value, made.other.value, made.later()) == (3, 4, 1)
    assert made.deep.__name__ == "recipe_pack.deep"
    beside = {recipe.path.removeprefix(f"{tmp_path}/") for recipe in loaded_recipes() if recipe.beside}
    assert beside >= {
        "near.py",
        "lazy.py",
        "pack/__init__.py",
        "pack/deep.py",
        "pack/sub.py",
        "bare/inside.py",
        "bare/other.py",
    }
    assert not {"near", "pack", "bare"} & set(sys.modules)  # nobody else is given them


def test_two_recipes_whose_neighbours_have_one_name_get_their_own(tmp_path):
    for name in ("one", "two"):
        written(tmp_path / name, **{f"recipe_{name}": "from namesake import Net", "namesake": f"class Net: where = {name!r}"})
    one, two = (load_file(tmp_path / name / f"recipe_{name}.py") for name in ("one", "two"))
    assert (one.Net.where, two.Net.where) == ("one", "two")
    assert one.Net.__module__ == "recipe_namesake" != two.Net.__module__
    for made in (one, two):
        assert pickle.loads(pickle.dumps(made.Net)) is made.Net


def test_two_recipes_of_one_folder_share_their_neighbours(tmp_path):
    written(tmp_path, one="import near", two="import near\nimport one", near="value = []")
    one, two = load_file(tmp_path / "one.py"), load_file(tmp_path / "two.py")
    assert one.near is two.near
    assert two.one is one


def test_the_standard_library_and_what_is_imported_already_are_themselves(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    written(tmp_path, user="import json, shared_by_path", json="raise AssertionError", shared_by_path="value = 1")
    shared = importlib.import_module("shared_by_path")
    assert load_file(tmp_path / "user.py").shared_by_path is shared
    del sys.modules["shared_by_path"]


def test_what_a_neighbour_raises_is_told_with_its_line_and_it_may_be_loaded_again(tmp_path):
    written(tmp_path, user="import near", near="\n1 / 0")
    with pytest.raises(ZeroDivisionError) as error:
        load_file(tmp_path / "user.py")
    assert (error.traceback[-1].path, error.traceback[-1].lineno) == (tmp_path / "near.py", 1)
    written(tmp_path, near="value = 1")
    assert load_file(tmp_path / "user.py").near.value == 1


def test_what_is_kept_stands_in_the_place_of_files_that_are_gone_or_others_now(tmp_path):
    path = {name: str(tmp_path / f"{name}.py") for name in ("user", "near")}
    kept = {
        path["user"]: Recipe("", path["user"], b"from near import value", "copy-of-user"),
        path["near"]: Recipe("", path["near"], b"value = 'kept'", "copy-of-near"),
    }
    written(tmp_path, near="value = 'now'")
    made = load_file(path["user"], kept=kept)
    assert (made.value, made.__file__) == ("kept", path["user"])
    other = {**kept, path["user"]: Recipe("", path["user"], b"value = 2", "")}
    with pytest.raises(SpecError, match="is loaded already, and not as the run has kept it"):
        load_file(path["user"], kept=other)


def test_another_process_loads_the_bytes_that_were_read(tmp_path):
    written(tmp_path, user="from near import Net", near="class Net: value = 'then'")
    net = load_file(tmp_path / "user.py").Net
    found, sent = [r for r in loaded_recipes() if r.path.startswith(str(tmp_path))], pickle.dumps(net)
    (tmp_path / "near.py").write_text("class Net: value = 'now'")
    code = (
        "import sys, pickle; from mapsto.core.recipes import load_recipes\n"
        "data = sys.stdin.buffer.read()\n"
        "n = int.from_bytes(data[:4], 'big'); load_recipes(pickle.loads(data[4:4 + n]))\n"
        "print(pickle.loads(data[4 + n:]).value)"
    )
    first = pickle.dumps(found)
    done = subprocess.run(
        [sys.executable, "-c", code], input=len(first).to_bytes(4, "big") + first + sent, capture_output=True, check=False
    )
    assert done.stdout == b"then\n", done.stderr
    load_recipes(found)  # in the same process: they are loaded already


def test_the_name_of_a_package_is_that_of_its_folder():
    assert module_name("a/my-pack/__init__.py") == "recipe_my_pack"
    assert module_name("a/my-file.py") == "recipe_my_file"
