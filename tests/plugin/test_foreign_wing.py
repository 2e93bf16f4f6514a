"""A package of another framework, from outside: it brings a wing, and its names, laws and classes stand beside PyTorch's."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.forked import run

from mapsto.processes.forks import ForkServer

LAYERS = Path(__file__).parents[1] / "laws" / "test_neutral_layers.py"
"""Layers on NumPy with their own backward pass, and a driver of them: a framework, for those who know of no other."""
FRAMEWORK = """
import toylayers

class Linear(toylayers.Layer): ...
class Wrong(toylayers.ForgetsFactor): ...

class Adam:
    def __init__(self, sizes, rate: float = 0.1): ...

def task(model, batch): ...
"""
WING = """
from mapsto.core.wings import Framework
TOY = Framework(
    name="toy",
    packages=("toyframe", "toylayers"),
    laws="toywing_laws",
    given={"optimizer": ("sizes",), "model": ("rng",)},
)
"""
LAWS = """
from dataclasses import replace
import toylayers
from mapsto.core.laws import Laws
from mapsto.laws import schedule_inputs

laws = Laws("layer")

@laws.law("L2", "layout", priority=0, why="It must.", satisfy="Be one.")
def layout(trial):
    '''PyTorch has another law of this name.'''
    trial.demand(issubclass(trial.subject.target, toylayers.Layer), "it is no layer")

class Halving:
    def __init__(self, period: int = 4):
        self.period, self.t = period, 0

def later(period: int = 4):
    return Late(period)

class Late(Halving): ...

class Driven:
    def __init__(self, schedule, late):
        self.bases, self.schedule, self.late = [1.0], schedule, late
    def settings(self):
        return [{"lr": 0.5 ** (max(self.schedule.t - self.late, 0) // self.schedule.period)}]
    def reported_rates(self):
        return None
    def advance(self, t):
        self.schedule.t += 1
    def save(self):
        return self.schedule.t
    def load(self, saved, order):
        self.schedule.t = saved

class Driver:
    orders = ("the schedule alone",)
    def build(self, trial, *, variant=None):
        made = trial.subject.target(**schedule_inputs.arguments(trial, variant))
        return Driven(made, isinstance(made, Late))

def complete(subject):
    if subject.kind == "layer":
        return replace(subject, driver=toylayers.Driver())
    if subject.kind != "schedule":
        return subject
    more = {"formula": lambda t, base, period: base * 0.5 ** (t // period), "variants": ({"period": 1},)}
    return replace(subject, driver=Driver(), example=replace(subject.example, args={"period": 4}, more=more))
"""
ANY = """
from mapsto.core.laws import Laws
laws = Laws("layer")

@laws.law("X1", "has_a_class", priority=0, why="It must.", satisfy="Be one.")
def has_a_class(trial):
    '''Whatever framework it is of, it is made by calling a class.'''
    trial.demand(isinstance(trial.subject.target, type), "it is no class")

class Stray: ...
"""


def install(site: Path, name: str, groups: dict[str, dict[str, str]]) -> None:
    """The metadata of a distribution, as an installer leaves it."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    texts = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups.items())
    (info / "entry_points.txt").write_text("\n".join(texts))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for name, code in {
        "toylayers": LAYERS.read_text(),
        "toyframe": FRAMEWORK,
        "toywing": WING,
        "toywing_laws": LAWS,
        "anywing": ANY,
    }.items():
        (folder / f"{name}.py").write_text(code)
    own = {
        "optimizer/adamw": "toyframe:Adam",
        "layer/linear": "toyframe:Linear",
        "layer/wrong": "toyframe:Wrong",
        "schedule/halving": "toywing_laws:Halving",
        "schedule/late": "toywing_laws:later",
        "law/layer": "toywing_laws:laws",
    }
    install(folder, "mapsto_toy", {"mapsto.wings": {"toy": "toywing:TOY"}, "mapsto.toy": own})
    install(folder, "mapsto_any", {"mapsto": {"law/any": "anywing:laws"}})
    return folder


@pytest.fixture
def mapsto(loaded: ForkServer, site: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    return lambda *words: run(loaded, "-m", "mapsto", *words, environment={"PYTHONPATH": str(site)})


def test_two_wings_have_one_name_and_listing_loads_no_framework(mapsto, site, loaded):
    found = json.loads(mapsto("list", "--json").stdout)
    named = [e for e in found if e["key"] == "optimizer/adamw"]
    assert [(e["wing"], e["reference"], e["claimed"]) for e in named] == [
        ("torch", "mapsto.torch.optimizers:adamw", 1), ("toy", "toyframe:Adam", 1),
    ]  # fmt: skip
    only = {e["key"] for e in json.loads(mapsto("list", "--wing", "toy", "--json").stdout)}
    assert {"layer/linear", "source/arrays"} <= only
    assert "middleware/ema" not in only
    code = "import sys, mapsto\nmapsto.registry.entries()\nprint('toyframe' in sys.modules, 'toywing' in sys.modules)"
    assert run(loaded, "-c", code, environment={"PYTHONPATH": str(site)}).stdout.split() == ["False", "False"]


def test_a_name_in_two_wings_is_checked_of_the_one_that_is_said(mapsto, tmp_path):
    file = tmp_path / "found.json"
    found = judged(mapsto, file, "adamw", "optimizer/adamw", "toy/optimizer/adamw", "trch/optimizer/adamw", "--laws", "formula")
    said = "is a name in several wings: say one of torch/optimizer/adamw, toy/optimizer/adamw, or its wing (--wing)"
    assert said in found["adamw"]["target"]
    assert said in found["optimizer/adamw"]["target"]
    assert found["toy/optimizer/adamw"] == {"optimizer.formula": "unknown"}
    assert "there is no wing 'trch'; allowed: torch, toy; did you mean 'torch'?" in found["trch/optimizer/adamw"]["target"]


def test_a_name_in_two_wings_is_shown_of_the_one_that_is_said(mapsto):
    assert "toyframe:Adam, from mapsto_toy 1.0, of the wing toy" in mapsto("show", "toy/optimizer/adamw").stdout
    assert "in a spec of `wing: toy`: {use: adamw}" in mapsto("show", "adamw", "--wing", "toy").stdout
    said = mapsto("show", "optimizer/adamw").stderr
    assert "is a name in several wings: say one of torch/optimizer/adamw, toy/optimizer/adamw" in said


def judged(mapsto, file: Path, *words: object) -> dict[str, dict[str, str]]:
    """Subject -> law -> verdict, and of a target that cannot be used why."""
    said = mapsto("check", *words, "--json", file)
    assert file.exists(), said.stderr
    found: dict[str, dict[str, str]] = {}
    for line in file.read_text().splitlines():
        record = json.loads(line)
        if "end" in record:
            continue
        found.setdefault(record["subject"], {})[record["law"]] = record["status"] if record["id"] else record["reason"]
    return found


def test_laws_judge_the_subjects_of_their_wing_and_neutral_ones_all(mapsto, tmp_path):
    words = ("layer/linear", "layer/wrong", "toyframe:Linear", "torch.nn:Identity", "anywing:Stray")
    laws = "gradients,has_a_class,layout,gradient_layout"  # of the last the toy has none
    found = judged(mapsto, tmp_path / "layers.json", *words, "--kind", "layer", "--laws", laws)
    own = {"layer.gradients": "pass", "layer.layout": "pass", "layer.has_a_class": "pass"}
    assert found["layer/linear"] == found["toyframe:Linear"] == own
    assert found["layer/wrong"] == {**own, "layer.gradients": "fail"}
    assert found["torch.nn:Identity"] == {**own, "layer.gradient_layout": "pass"}
    assert "a layer is a module of a framework, and this one is of none that has a wing" in found["anywing:Stray"]["target"]


def test_what_is_native_is_judged_by_the_neutral_laws_through_the_wing_s_driver(mapsto, tmp_path):
    found = judged(mapsto, tmp_path / "found.json", "schedule/halving", "schedule/late", "layer/linear", "--gate")
    assert found["schedule/halving"]["schedule.formula"] == found["schedule/halving"]["schedule.resume"] == "pass"
    assert found["schedule/late"]["schedule.formula"] == "fail"
    assert "schedule.wrapping" not in found["schedule/late"]  # of torch's own schedules
    assert {*found["layer/linear"].values()} <= {"pass", "not applicable"}
    assert len(found["layer/linear"]) > 4


SPEC = """\
wing: toy
model: linear
task: "toyframe:task"
data: {train: {source: {use: arrays, input: [[1], [2]], target: [[1], [0]]}, batch_size: 2}}
"""


def test_a_spec_finds_the_names_of_its_wing(mapsto, tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC.replace("model: linear", "model: {use: layer/linear}"))
    assert "a model is wanted here" in mapsto("show", tmp_path / "spec.yaml").stderr
    (tmp_path / "spec.yaml").write_text(SPEC.replace("model: linear", 'model: "toyframe:Linear"\nmiddleware: [ema]'))
    said = mapsto("show", tmp_path / "spec.yaml", "--trust")
    assert "there is no middleware 'ema' in the wing toy (the wing torch has it)" in said.stdout + said.stderr


def test_a_wing_that_trains_nothing_owes_no_law_of_programs_and_has_no_task_of_another(mapsto, tmp_path):
    (tmp_path / "spec.yaml").write_text(
        SPEC.replace("model: linear", 'model: "toyframe:Linear"').replace('task: "toyframe:task"', "")
    )
    said = mapsto("show", tmp_path / "spec.yaml", "--trust").stderr
    assert "wing: toy names no program of its own" in said
    assert "classification" not in said
    found = judged(mapsto, tmp_path / "found.json", tmp_path / "spec.yaml", "--trust", "--kind", "program")
    assert {*found["run"].values()} == {"not applicable"}
    assert "task" not in found


def test_a_wing_that_mapsto_new_writes_keeps_its_laws_and_sees_planted_bugs(mapsto, loaded, tmp_path):
    assert mapsto("new", "wing", "toynew", "--into", tmp_path).returncode == 0
    folder, site = tmp_path / "mapsto-toynew", tmp_path / "site"
    site.mkdir()
    install(site, "mapsto_toynew", tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"])
    where = {"PYTHONPATH": f"{folder / 'src'}:{site}"}
    (folder / "conftest.py").write_text("")
    done = run(loaded, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", environment=where, cwd=folder)
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout
    words = ("-m", "mapsto", "check", "toynew/layer/dense", "toynew/schedule/halving", "mapsto-toynew")
    done = run(loaded, *words, environment=where, cwd=tmp_path)  # where a folder of the distribution's name stands
    assert done.returncode == 0, done.stdout
    assert "✓ own_weights" in done.stdout
    assert "unknown" not in done.stdout


# -- wings that are broken ---------------------------------------------------------------------------------------------
BROKEN = {
    "gone": "",
    "cracked": "import nothing_of_this_name",
    "empty": "def complete(subject): ...",
    "lazy": "def complete(subject):\n    import toylazy_drivers",
}
"""Wings of which only the module of laws is wrong: what stands in it, or nothing where it is missing."""
GONE = "cannot be imported: ModuleNotFoundError: No module named"
SAID = {
    "gone": f"wing gone: its module of laws toygone_laws {GONE} 'toygone_laws'",
    "cracked": f"wing cracked: its module of laws toycracked_laws {GONE} 'nothing_of_this_name' (SITE/toycracked_laws.py:1)",
    "empty": "wing empty: `complete` of toyempty_laws gave None for toyempty:Layer, and a Subject is wanted: let it return the "
    "subject",
    "lazy": "wing lazy: `complete` of toylazy_laws failed for toylazy:Layer: ModuleNotFoundError: No module named "
    "'toylazy_drivers' (SITE/toylazy_laws.py:2)",
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    head = "from mapsto.core.wings import Framework\n"
    wings = {
        "absent": 'packages=("toyabsent_framework",)',
        "texted": 'packages="toytexted"',
        "spelt": 'given={"optimiser": ("params",)}',
    }
    for name, laws in BROKEN.items():
        wings[name] = f'packages=("toy{name}",), laws="toy{name}_laws"'
        (folder / f"toy{name}.py").write_text("class Layer: ...\n")
        if laws:
            (folder / f"toy{name}_laws.py").write_text(laws + "\n")
    for name, said in wings.items():
        (folder / f"toy{name}_wing.py").write_text(head + f'WING = Framework(name="{name}", {said})\n')
    points = {name: f"toy{name}_wing:WING" for name in [*wings, "nowhere"]}
    install(folder, "mapsto_broken", {"mapsto.wings": points, "mapsto.empt": {"layer/x": "toyempty:Layer"}})
    return folder


@pytest.fixture
def in_broken(loaded: ForkServer, broken: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    return lambda *words, **more: run(loaded, "-m", "mapsto", *words, environment={"PYTHONPATH": str(broken), **more})


def test_a_module_of_laws_that_is_missing_or_broken_is_told_in_a_line(in_broken, broken, tmp_path):
    targets = [f"toy{name}:Layer" for name in BROKEN]
    found = judged(in_broken, tmp_path / "found.json", *targets, "torch.nn:Identity", "--kind", "layer", "--laws", "gradients")
    for name in BROKEN:
        assert found[f"toy{name}:Layer"] == {"target": SAID[name].replace("SITE", str(broken))}
    assert found["torch.nn:Identity"] == {"layer.gradients": "pass"}  # another wing's is judged all the same


def test_wings_that_cannot_be_used_are_listed_with_the_reason(in_broken):
    said = in_broken("list", "loss").stderr
    assert "wing absent: its framework toyabsent_framework is not installed, so its names cannot be used" in said
    assert "packages is the text 'toytexted', and names are wanted: ('toytexted',)" in said
    assert "wing spelt of mapsto_broken 1.0: `given` names the kind 'optimiser'; allowed: " in said
    assert "did you mean 'optimizer'?" in said
    assert "wing/nowhere of mapsto_broken 1.0 cannot be imported from toynowhere_wing:WING" in said
    assert "is of group 'mapsto.empt', and there is no wing 'empt'" in said
    assert "did you mean 'empty'?" in said


def test_a_wing_that_is_disabled_takes_its_names_with_it_in_silence(in_broken):
    listed = in_broken("list", "loss", MAPSTO_DISABLE="mapsto-broken")
    assert listed.stderr == ""
    said = in_broken("show", "layer/linear", "--wing", "empty", MAPSTO_DISABLE="mapsto-broken").stderr
    assert "there is no wing 'empty' (mapsto_broken 1.0 brings it, and MAPSTO_DISABLE leaves that out)" in said
