"""The example plugin, installed in a fresh environment: listed, trained by name, with no edit in mapsto."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mapsto import UnknownName, registry

pytestmark = pytest.mark.fresh
EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"


@dataclass(frozen=True)
class Installed:
    fresh: Any
    folder: Path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, fresh_environment: Callable[[], Any]) -> Installed:
    folder = tmp_path_factory.mktemp("plugin") / "plugin"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    fresh = fresh_environment()
    fresh.install(folder)
    return Installed(fresh, folder)


def test_it_is_not_there_without_being_installed():
    with pytest.raises(UnknownName, match="there is no middleware 'lookahead'"):
        registry.get("middleware", "lookahead")


def test_it_is_listed(installed):
    done = installed.fresh.mapsto("list", "--json")
    found = {entry["key"]: entry["origin"] for entry in json.loads(done.stdout)}
    assert found["middleware/lookahead"] == found["optimizer/lion"] == "mapsto-lookahead 0.1.0"
    assert found["optimizer/adamw"].startswith("mapsto ")


def test_listing_does_not_import_it(installed):
    code = (
        "import sys\nfrom mapsto.cli import main\nmain(['list'])\n"
        "assert not any(name.startswith('mapsto_lookahead') for name in sys.modules)\n"
    )
    assert installed.fresh.run("-c", code).returncode == 0


def test_the_plan_shows_where_it_stands(installed):
    done = installed.fresh.mapsto("show", installed.folder / "example.yaml")
    assert "update = lookahead( clip_norm( optimizer ))" in done.stdout
    assert "lookahead says before='clip_norm'" in done.stdout


def test_a_spec_that_names_it_trains_and_goes_on_bitwise(installed, tmp_path):
    spec = str(installed.folder / "example.yaml")
    first = [["train", spec, "--run", "whole"], ["train", spec, "epochs=33", "--run", "parts"]]  # 33: between two pulls
    second = [["train", "--resume", "parts", "epochs=60"], ["evaluate", "whole", "--json"]]
    for commands in (first, second):  # a process each
        code = f"from mapsto.cli import main\nfor words in {commands!r}:\n    assert main(words) == 0\n"
        done = installed.fresh.fork("-c", code, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    whole, parts = (tmp_path / run / "checkpoints" / "step-00000060" / "tensors.safetensors" for run in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    assert json.loads(done.stdout[done.stdout.index("{\n") :])["metrics"]["accuracy"] == 1.0


def test_it_keeps_its_own_tests(installed):
    done = installed.fresh.fork("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=installed.folder)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
