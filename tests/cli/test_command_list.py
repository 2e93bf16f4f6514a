"""`mapsto list`."""

from __future__ import annotations

import json
import re

from mapsto import registry


def test_every_name_with_its_origin(mapsto):
    said = mapsto("list")
    lines = said.out.splitlines()
    assert lines[0].split() == ["name", "wing", "maps", "from", "defined", "in"]
    row = next(line for line in lines if line.startswith("optimizer/adamw "))
    assert "params -> optimizer" in row
    assert "mapsto 0.1.0" in row
    assert "mapsto.torch.optimizers:adamw" in row
    assert len(lines) == 1 + len(registry.entries())
    assert all(line == line.rstrip() for line in lines)


def test_one_kind(mapsto):
    lines = mapsto("list", "order").out.splitlines()[1:]
    assert lines
    assert all(line.startswith("order/") for line in lines)


def test_an_unknown_kind(mapsto):
    said = mapsto("list", "midleware")
    assert said.code == 1
    assert "there is no kind 'midleware'" in said.err
    assert "did you mean 'middleware'?" in said.err


def test_a_kind_without_names_says_how_to_write_one(mapsto):
    said = mapsto("list", "surgery")
    assert said.code == 0
    assert said.out == ""
    assert "mapsto new surgery NAME" in said.err


def test_json(mapsto):
    found = {entry["key"]: entry for entry in json.loads(mapsto("list", "--json").out)}
    assert found["loss/mse"] == {
        "key": "loss/mse",
        "kind": "loss",
        "name": "mse",
        "wing": "torch",
        "maps": "(prediction, target) -> (total, weight)",
        "origin": "mapsto 0.1.0",
        "reference": "mapsto.torch.losses:mse",
        "claimed": 1,
        "disabled": False,
    }


def test_kinds_with_their_signatures(mapsto):
    lines = mapsto("list", "--kinds").out.splitlines()
    assert any(line.startswith("loss ") and "(prediction, target) -> (total, weight)" in line for line in lines)
    found = {kind["kind"]: kind for kind in json.loads(mapsto("list", "--kinds", "--json").out)}
    assert found["optimizer"]["names"] == len(registry.entries("optimizer"))
    assert found["mesh"]["built_in"] is True


def test_what_a_recipe_file_registers(mapsto, tmp_path):
    recipe = tmp_path / "listed_recipe.py"
    recipe.write_text("import mapsto\n\n@mapsto.loss\ndef listed_here(prediction, target):\n    return prediction.sum(), 1\n")
    assert "listed_here" not in mapsto("list", "loss").out
    row = next(line for line in mapsto("list", "loss", "--import", recipe).out.splitlines() if "listed_here" in line)
    assert f"{recipe}:3" in row


def test_a_terminal_gets_a_table_that_fits_it(mapsto, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("NO_COLOR", "1")
    said = mapsto("list", "order")
    assert "order/shuffled" in said.out
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in said.out.splitlines()) <= 70


def test_what_is_disabled_is_listed_as_such_and_a_wrong_name_is_told(mapsto, tmp_path, monkeypatch):
    info = tmp_path / "plug_off-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-off\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mapsto]\nloss/off = plugoff:off\nloss/mse = plugoff:mse\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MAPSTO_DISABLE", "plug-off,plug-of")
    registry.refresh()
    try:
        said = mapsto("list", "loss")
        assert "loss/off" in said.out
        assert said.out.count("disabled by MAPSTO_DISABLE") == 2
        assert "claimed more than once" not in said.err
        assert said.err.count("MAPSTO_DISABLE: no distribution 'plug-of' registers anything; allowed: ") == 1
        assert "did you mean 'plug-off'?" in said.err
        found = {(e["key"], e["origin"]): e for e in json.loads(mapsto("list", "--json").out)}
        assert found["loss/off", "plug-off 1.0"]["disabled"]
        assert not found["loss/mse", "mapsto 0.1.0"]["disabled"]
    finally:
        monkeypatch.undo()
        registry.refresh()
