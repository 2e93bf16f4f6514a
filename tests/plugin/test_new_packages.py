"""Every package that `mapsto new` writes: it installs, is listed, keeps its own test, and is used by name in a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mapsto.cli.new import kinds, write_package
from mapsto.cli.templates import EXAMPLES

pytestmark = pytest.mark.fresh


@dataclass(frozen=True)
class Written:
    """The packages, and the environment they are installed in."""

    fresh: Any
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, fresh_environment: Callable[[], Any]) -> Written:
    into, fresh = tmp_path_factory.mktemp("written"), fresh_environment()
    folders = {kind: write_package(kind, f"own_{kind}", into) for kind in kinds()}
    fresh.install(*folders.values())
    return Written(fresh, folders)


def test_each_is_listed_with_its_origin(written):
    found = {entry["key"]: entry for entry in json.loads(written.fresh.mapsto("list", "--json").stdout)}
    for kind in written.folders:
        assert found[f"{kind}/own_{kind}"]["origin"] == f"mapsto-own-{kind} 0.1.0"
        assert found[f"{kind}/own_{kind}"]["claimed"] == 1


def test_each_is_shown(written):
    code = (
        "from mapsto.cli import main\n"
        f"for kind in {list(written.folders)!r}:\n    assert main(['show', f'{{kind}}/own_{{kind}}']) == 0\n"
    )
    done = written.fresh.fork("-c", code)
    assert done.returncode == 0, done.stderr
    for kind in written.folders:
        assert f"\n{kind}/own_{kind}  (" in "\n" + done.stdout
        assert f"in a spec: {{use: own_{kind}" in done.stdout


def test_each_keeps_its_own_test(written, tmp_path):
    report = tmp_path / "results.xml"
    tests = [folder / "tests" for folder in written.folders.values()]
    words = [
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
        f"--junit-xml={report}",
        "-k",
        "not compile and not without_source",  # the longest laws, which tests/check judges of mappings of all kinds
        *tests,
    ]
    done = written.fresh.fork(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    ran = report.read_text()
    assert all(f'classname="test_own_{kind}"' in ran or f"test_own_{kind}" in ran for kind in written.folders)


DRIVER = """
import json, pathlib, runpy, sys
from mapsto.cli import main
for folder in sys.argv[1:]:
    folder = pathlib.Path(folder)
    yaml, recipe = folder / "example.yaml", folder / "example.py"
    if yaml.exists() or "def spec" in recipe.read_text():
        spec = yaml if yaml.exists() else recipe.rename(folder / f"example_{folder.name.replace('-', '_')}.py")
        code = main(["train", str(spec), "device=cpu", "--run", str(folder / "run"), "--quiet"])
        assert code == 0, (folder, code)
    else:
        runpy.run_path(str(recipe), run_name="__main__")
"""


def test_each_is_used_by_name_in_its_example(written, tmp_path):
    done = written.fresh.fork("-c", DRIVER, *written.folders.values(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for kind, folder in written.folders.items():
        example = next(p for p in folder.iterdir() if p.name.startswith("example"))
        assert f"own_{kind}" in example.read_text()
        if kind in EXAMPLES:
            assert f"own_{kind}" in str(yaml.safe_load(example.read_text()))
        if (folder / "run").exists():
            lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
            losses = [line["metrics"]["train/loss"] for line in lines if line["name"] == "log"]
            assert losses[-1] < losses[0] or kind == "observer", (kind, losses)
    assert "loss" in done.stdout  # of the mesh's own loop
    assert (tmp_path / "gate.npz").is_file()  # of the export


USES = """
import mapsto, torch, yaml
from mapsto import Spec, use
from mapsto.core.parts import build
from mapsto.core.values import freeze
from torch import nn

@mapsto.model
def net_of(layer, surgery):
    return surgery(nn.Sequential(nn.Linear(2, 4), layer, nn.ReLU(), nn.Linear(4, 2)))

@mapsto.observer
class Exporting:
    def __init__(self, export):
        self.export = export
    def __call__(self, event):
        if event.name == "end":
            net = nn.Module()
            for name, value in event.run.weights().items():
                net.register_buffer(name.replace(".", "_"), torch.as_tensor(value))
            print("exported", self.export(net))
"""

YAML = """
imports: [uses.py]
model: {use: net_of, layer: {use: own_layer, features: 4}, surgery: {use: own_surgery, slope: 0.3}}
mesh: {use: own_mesh, shards: 3}
observers: [{use: exporting, export: {use: own_export, path: out.npz}}]
data: {train: {source: {use: own_source, records: 8}, batch_size: 4}}
device: cpu
"""


def test_kinds_without_a_slot_are_named_in_yaml_within_other_parts(written, tmp_path):
    (tmp_path / "uses.py").write_text(USES)
    (tmp_path / "uses.yaml").write_text(YAML)
    done = written.fresh.mapsto("train", "uses.yaml", "--run", "run", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "exported out.npz" in done.stdout
    assert (tmp_path / "out.npz").is_file()
    (tmp_path / "wrong.yaml").write_text(YAML.replace("own_surgery", "own_surgry"))
    done = written.fresh.mapsto("train", "wrong.yaml", "--run", "other", cwd=tmp_path)
    assert done.returncode == 1
    assert "did you mean 'own_surgery'?" in done.stderr
