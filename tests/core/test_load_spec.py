from __future__ import annotations

import sys
from pathlib import Path

import pytest

import mapsto
from mapsto.core.errors import RegistryError, SpecError
from mapsto.core.load_spec import load_spec
from mapsto.core.recipes import load_file, loaded_files, module_name
from mapsto.core.registry import registry
from mapsto.core.spec import Spec

RECIPE = """
import mapsto

@mapsto.model
def tiny_net(width: int = 1):
    return width

def tiny_task(model, batch):
    return 0, 1, None

def tiny_optimizer(params, lr=0.1):
    return lr

def spec():
    data = {"train": {"source": {"input": [1]}, "batch_size": 1}}
    return mapsto.Spec(model=mapsto.use("tiny_net", width=2), data=data, task=tiny_task, optimizer=tiny_optimizer)

def wide(width=8):
    return mapsto.Spec(model=mapsto.use(tiny_net, width=width), data={"train": {"source": {"input": [1]}, "batch_size": 1}})

def nothing():
    return 3

SETTINGS = 3
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "my recipe.py"
    path.write_text(RECIPE)
    return path


# -- recipe files ------------------------------------------------------------------------------------------------------
def test_a_recipe_is_imported_once_under_the_same_name(recipe: Path) -> None:
    module = load_file(recipe)
    assert module.__name__ == module_name(recipe) == "recipe_my_recipe"
    assert load_file(str(recipe)) is module
    assert registry.get("model", "tiny_net") is module.tiny_net
    assert loaded_files()["recipe_my_recipe"] == str(recipe)


def test_a_recipe_may_be_given_a_name(tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text("X = 1")
    assert load_file(path, "recipe_chosen").__name__ == "recipe_chosen"
    assert load_file(path) is not load_file(path, "recipe_chosen")


def test_a_missing_recipe_names_the_nearest(recipe: Path) -> None:
    with pytest.raises(
        SpecError, match=r"there is no recipe file .*my_recipe.py; allowed: my recipe.py; did you mean 'my recipe.py'"
    ):
        load_file(recipe.with_name("my_recipe.py"))
    with pytest.raises(SpecError, match="there is no recipe file /no/such/x.py; nothing is allowed here"):
        load_file("/no/such/x.py")


def test_two_recipes_of_one_stem_must_be_the_same(recipe: Path) -> None:
    module = load_file(recipe)
    copy = recipe.parent / "copy" / recipe.name
    copy.parent.mkdir()
    copy.write_text(RECIPE)
    assert load_file(copy) is module
    copy.write_text(RECIPE + "\n# changed\n")
    with pytest.raises(
        SpecError, match=r"copy/my recipe.py and .*my recipe.py would both be the module 'recipe_my_recipe': rename"
    ):
        load_file(copy)


def test_a_recipe_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        load_file(path)
    assert "recipe_broken" not in sys.modules
    assert "recipe_broken" not in loaded_files()
    path.write_text("X = 1")
    assert load_file(path).X == 1


def test_a_recipe_whose_name_is_taken(recipe: Path) -> None:
    mapsto.model("tiny_net")(lambda: None)
    with pytest.raises(RegistryError, match=r"(?s)model/tiny_net is claimed 2 times.*test_load_spec.py.*my recipe.py:4"):
        load_file(recipe)


# -- what the command line names ---------------------------------------------------------------------------------------
def test_a_recipe_and_a_function_of_it(recipe: Path) -> None:
    spec = load_spec(str(recipe))
    assert spec.model == mapsto.use("tiny_net", width=2)
    assert spec.imports == (str(recipe),)
    assert load_spec(f"{recipe}:wide").to_data()["model"] == {"use": "tiny_net", "width": 8}
    assert load_spec(str(recipe)) == spec
    spec.check()


def test_a_recipe_brings_the_recipes_that_it_loads(recipe: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer.py"
    outer.write_text(f"from mapsto.core.recipes import load_file\nspec = load_file({str(recipe)!r}).spec\n")
    assert load_spec(str(outer)).imports == (str(outer), str(recipe))


def test_a_yaml_file_and_a_run_folder(recipe: Path, tmp_path: Path) -> None:
    spec = load_spec(str(recipe))
    (tmp_path / "spec.yaml").write_text(spec.to_yaml())
    (tmp_path / "near.yml").write_text("{model: tiny_net, data: {train: 'builtins:dict'}, imports: ['my recipe.py']}")
    again = load_spec(str(tmp_path / "spec.yaml")).check()
    assert again == load_spec(str(tmp_path))
    assert again.to_data() == spec.to_data()
    assert again.task == mapsto.use("recipe_my_recipe:tiny_task")
    near = load_spec(str(tmp_path / "near.yml"))
    near.load_imports()
    assert near.imports == (str(recipe),)
    assert registry.get("model", "tiny_net").__module__ == "recipe_my_recipe"


def test_a_function_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugspecs.py").write_text(RECIPE.replace("tiny_net", "plug_net"))
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = load_spec("plugspecs:wide")
    assert isinstance(spec, Spec)
    assert spec.imports == ()
    assert spec.to_data()["model"] == {"use": "plug_net", "width": 8}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "{dir}/my recipe.py:wyde",
            r".*my recipe.py has no function 'wyde' that returns a spec; allowed: nothing, spec, .*, wide; did",
        ),
        ("{dir}/my recipe.py:SETTINGS", ".*my recipe.py has no function 'SETTINGS' that returns a spec; "),
        ("{dir}/my recipe.py:nothing", ".*my recipe.py:nothing returned a int, and a mapsto.Spec is wanted"),
        ("{dir}/recipe.py", "there is no recipe file .*/recipe.py; allowed: my recipe.py; did you mean 'my recipe.py'"),
        ("{dir}/spek.yaml", r"there is no spec file .*/spek.yaml; allowed: .*; did you mean 'spec.yml'\?"),
        ("{dir}", r"there is no spec file .*/spec.yaml; allowed: .*; did you mean 'spec.yml'\?"),
        ("/no/such/x.yaml", "there is no spec file /no/such/x.yaml; nothing is allowed here"),
        ("{dir}/spec.yml", ".*/spec.yml: modell: unknown key; .*did you mean 'model'"),
        ("{dir}/latin.yaml", ".*/latin.yaml: this is not UTF-8 text: "),
        ("no_such_module:spec", "no_such_module:spec: no module named 'no_such_module'"),
        (
            "something",
            r"'something' is not a spec: name a recipe \(file.py or file.py:function\), package.module:function, a YAML",
        ),
    ],
)
def test_what_is_no_spec(recipe: Path, argument: str, message: str) -> None:
    (recipe.parent / "spec.yml").write_text("{modell: x}")
    (recipe.parent / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(SpecError, match=f"^{message}"):
        load_spec(argument.format(dir=recipe.parent))


def test_a_recipes_classes_are_written_by_a_name_that_another_process_finds(recipe: Path) -> None:
    module = load_file(recipe)
    recipe.write_text(RECIPE)
    spec = mapsto.Spec(model=module.spec, data={}, imports=(str(recipe),))
    assert spec.to_data()["model"] == {"use": "recipe_my_recipe:spec"}
