"""Plugins that go wrong: two with one name, one that cannot be imported, one that brings a kind of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.forked import run

from mapsto.processes.forks import ForkServer


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


def plugin(site: Path, name: str, points: dict[str, str], code: str, version: str = "1.0") -> None:
    """A distribution as an installer leaves it: a module and its metadata."""
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    lines = "".join(f"{key} = {value}\n" for key, value in points.items())
    (info / "entry_points.txt").write_text(f"[mapsto]\n{lines}")


@pytest.fixture
def mapsto(loaded: ForkServer) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`mapsto ...` where what is installed at `site` is found; what is installed is looked for in that process."""

    def call(site: Path, *words: object) -> subprocess.CompletedProcess[str]:
        return run(loaded, "-m", "mapsto", *words, environment={"PYTHONPATH": str(site)})

    return call


LOSS = "def hinge(prediction, target):\n    return prediction.relu().sum(), len(target)\n"
SPEC = """\
model: {use: "torch.nn:Linear", in_features: 1, out_features: 1}
task: {use: regression, loss: hinge}
data:
  train:
    source: {use: arrays, input: [[1], [2]], target: [[1], [0]]}
    transforms: [{use: scale, factor: 1.0}]
    batch_size: 2
device: cpu
"""


def test_two_with_one_name_are_both_named(mapsto, site, tmp_path):
    plugin(site, "first_plugin", {"loss/hinge": "first_plugin:hinge"}, LOSS)
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert mapsto(site, "train", tmp_path / "spec.yaml", "--run", tmp_path / "run", "--quiet").returncode == 0
    plugin(site, "second_plugin", {"loss/hinge": "second_plugin:hinge"}, LOSS, version="2.5")
    done = mapsto(site, "train", tmp_path / "spec.yaml", "--run", tmp_path / "other")
    assert done.returncode == 1
    assert "loss/hinge is claimed 2 times; uninstall, rename or disable one (MAPSTO_DISABLE=NAME):" in done.stderr
    assert "first_plugin:hinge  from first-plugin 1.0" in done.stderr
    assert "second_plugin:hinge  from second-plugin 2.5" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rival_of_a_built_in_name(mapsto, site):
    plugin(site, "greedy", {"optimizer/adamw": "greedy:Mine"}, "class Mine: ...\n")
    done = mapsto(site, "show", "optimizer/adamw")
    assert done.returncode == 1
    assert "from mapsto 0.1.0" in done.stderr
    assert "from greedy 1.0" in done.stderr


def test_listing_shows_both_and_says_so(mapsto, site):
    plugin(site, "first_plugin", {"loss/hinge": "first_plugin:hinge"}, LOSS)
    plugin(site, "second_plugin", {"loss/hinge": "second_plugin:hinge"}, LOSS)
    done = mapsto(site, "list", "loss")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()].count("loss/hinge") == 2
    assert "loss/hinge is claimed more than once" in done.stderr
    found = [entry for entry in json.loads(mapsto(site, "list", "loss", "--json").stdout) if entry["name"] == "hinge"]
    assert [entry["claimed"] for entry in found] == [2, 2]


def test_one_that_cannot_be_imported_is_named_and_still_listed(mapsto, site):
    plugin(site, "broken_plugin", {"loss/broken": "broken_plugin:broken"}, "raise RuntimeError('half installed')\n")
    done = mapsto(site, "list", "loss")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "broken-plugin 1.0" in done.stdout
    done = mapsto(site, "show", "loss/broken")
    assert done.returncode == 1
    assert "loss/broken of broken-plugin 1.0 cannot be imported" in done.stderr
    assert "RuntimeError: half installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "half installed" in mapsto(site, "show", "loss/broken", "--debug").stderr
    assert mapsto(site, "show", "loss/mse").returncode == 0  # the others are none the worse


def test_one_that_is_of_another_kind_than_it_says(mapsto, site):
    plugin(site, "wrong", {"loss/wrong": "wrong:wrong"}, "def wrong(only):\n    return only\n")
    done = mapsto(site, "show", "loss/wrong")
    assert done.returncode == 1
    assert "takes 1 positional argument" in done.stderr
    assert "wrong 1.0" in done.stderr


def test_a_kind_of_its_own(mapsto, site):
    code = (
        "from mapsto import Kind\n"
        "planner = Kind(name='planner', signature='budget -> plan', summary='spends a budget', applied=('budget',))\n"
        "def thrifty(budget, *, share: float = 0.5):\n    return budget * share\n"
    )
    plugin(site, "planning", {"kind/planner": "planning:planner", "planner/thrifty": "planning:thrifty"}, code)
    assert "planner/thrifty" in mapsto(site, "list").stdout
    row = next(line for line in mapsto(site, "list", "--kinds").stdout.splitlines() if line.startswith("planner "))
    assert "budget -> plan" in row
    shown = mapsto(site, "show", "planner/thrifty").stdout
    assert ["share", "float", "0.5"] in [line.split() for line in shown.splitlines()]


def test_a_kind_that_cannot_be_imported_is_told_in_its_row(mapsto, site):
    plugin(site, "planning", {"kind/planner": "planning:planner", "planner/x": "planning:x"}, "import nothing_of_that_name\n")
    done = mapsto(site, "list", "--kinds")
    assert done.returncode == 0
    row = next(line for line in done.stdout.splitlines() if line.startswith("planner "))
    assert "nothing_of_that_name" in row
    assert "planner/x" in mapsto(site, "list").stdout
