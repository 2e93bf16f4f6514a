"""`mapsto new`: what it writes and what it refuses. That what it writes works is proved by tests/plugin."""

from __future__ import annotations

import ast
import tomllib

import pytest

from mapsto import registry
from mapsto.cli.new import camel, kinds
from mapsto.cli.templates.wing import drivers
from mapsto.core.protocols import methods
from mapsto.core.wings import WINGS, Framework
from mapsto.laws.drivers import LayerDriver, Schedule, ScheduleDriver

DESIGNED = (
    *("source", "order", "transform", "reader", "model", "layer", "loss", "task", "optimizer", "schedule"),
    *("middleware", "observer", "surgery", "mesh", "export"),
)


def test_there_is_a_template_for_every_kind_of_the_tour():
    assert set(DESIGNED) <= set(kinds())


@pytest.mark.parametrize("kind", kinds())
def test_a_package_is_written(mapsto, tmp_path, kind):
    said = mapsto("new", kind, "some_thing", "--into", tmp_path)
    assert said.code == 0, said.err
    folder = tmp_path / "mapsto-some-thing"
    assert said.out == f"{folder}\n"
    assert f"pip install -e {folder}" in said.err
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    group = "mapsto.torch" if registry.kind(kind).native else "mapsto"
    ((key, reference),) = project["project"]["entry-points"][group].items()
    assert key == f"{kind}/some_thing"
    module, _, target = reference.partition(":")
    code = ast.parse((folder / "src" / module / "__init__.py").read_text())
    defined = {node.name: node for node in code.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    assert ast.get_docstring(code)
    assert ast.get_docstring(defined[target])
    assert "def test_" in (folder / "tests" / "test_some_thing.py").read_text()
    for file in folder.rglob("*.*"):
        assert not {"my_name", "MyName", "my_package"} & set(file.read_text().replace('"', " ").split())
        assert "my_name" not in file.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["mapsto-some-thing"]


def test_a_wing_is_written(mapsto, tmp_path):
    said = mapsto("new", "wing", "some_thing", "--into", tmp_path)
    assert said.code == 0, said.err
    assert "mapsto check some_thing/layer/dense" in said.err
    folder = tmp_path / "mapsto-some-thing"
    points = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points["mapsto.wings"] == {"some_thing": "mapsto_some_thing:WING"}
    for reference in points["mapsto.some_thing"].values():
        module, _, target = reference.partition(":")
        assert target in (folder / "src" / f"{module.replace('.', '/')}.py").read_text()
    for file in folder.rglob("*.*"):
        assert "my_name" not in file.read_text()
        assert file.suffix != ".py" or ast.get_docstring(ast.parse(file.read_text()))


@pytest.mark.parametrize(
    ("name", "told"),
    [("torch", "the wing torch exists already"), ("layer", "means something else"), ("MyWing", "write my_wing")],
)
def test_a_wing_that_cannot_be_written(mapsto, tmp_path, name, told):
    said = mapsto("new", "wing", name, "--into", tmp_path)
    assert said.code == 1
    assert told in said.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(mapsto, tmp_path):
    assert mapsto("new", "loss", "own", "--into", tmp_path).code == 0
    mine = tmp_path / "mapsto-own" / "src" / "mapsto_own" / "__init__.py"
    mine.write_text("mine")
    said = mapsto("new", "layer", "own", "--into", tmp_path)
    assert said.code == 1
    assert "exists already: nothing was written" in said.err
    assert mine.read_text() == "mine"


def test_folders_are_made(mapsto, tmp_path):
    assert mapsto("new", "loss", "own", "--into", tmp_path / "a" / "b").code == 0
    assert (tmp_path / "a" / "b" / "mapsto-own" / "pyproject.toml").is_file()


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("midleware", "own", "did you mean 'middleware'?"),
        ("loss", "focal", "loss/focal exists already, from mapsto 0.1.0"),
        ("loss", "ClipNorm", "snake_case is wanted, such as clip_norm; write clip_norm"),
        ("loss", "clip-norm", "write clip_norm"),
        ("loss", "3d", "snake_case is wanted"),
        ("loss", "../../etc", "snake_case is wanted"),
        ("loss", "class", "would hide another 'class'"),
        ("loss", "sum", "would hide another 'sum'"),
        ("loss", "torch", "would hide another 'torch'"),
        ("middleware", "state", "would hide another 'State'"),
    ],
)
def test_what_cannot_be_written(mapsto, tmp_path, kind, name, told):
    said = mapsto("new", kind, name, "--into", tmp_path)
    assert said.code == 1
    assert told in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_breaks_off_leaves_nothing(mapsto, tmp_path, monkeypatch):
    def full(self, *_, **__):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    said = mapsto("new", "loss", "own", "--into", tmp_path)
    assert said.code == 1
    assert "No space left on device" in said.err
    assert list(tmp_path.iterdir()) == []


def test_camel():
    assert [camel(name) for name in ("clip_norm", "l2", "own")] == ["ClipNorm", "L2", "Own"]


def test_a_wing_without_templates_and_one_that_is_not_there(mapsto, tmp_path, monkeypatch):
    monkeypatch.setitem(WINGS, "toy", Framework(name="toy"))
    said = mapsto("new", "loss", "own", "--into", tmp_path, "--wing", "toy")
    assert said.code == 1
    assert "there is no template for a kind 'loss' in the wing toy" in said.err
    assert (
        "there is no wing 'toi'; allowed: torch, toy; did you mean 'toy'?" in mapsto("new", "loss", "own", "--wing", "toi").err
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("made", "protocol"), [(drivers.Layers, LayerDriver), (drivers.Schedules, ScheduleDriver), (drivers.Driven, Schedule)]
)
def test_the_drivers_of_a_new_wing_have_all_that_laws_ask_for(made, protocol):
    assert [name for name in methods(protocol) if not hasattr(made, name)] == []
