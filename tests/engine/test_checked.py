"""What `train` refuses of a spec without its model and its data, `show` refuses too, in one line with the path."""

from __future__ import annotations

import importlib
import json
import pickle
import warnings

import numpy_wing
import pytest
import torch
from runs import fit, numpy_spec
from torch_runs import net, torch_spec

from mapsto.cli import main
from mapsto.core.errors import MapstoError, SpecError
from mapsto.core.parts import INJECTED, check, stated
from mapsto.core.registry import registry
from mapsto.core.values import Part
from mapsto.engine.checked import checked
from mapsto.engine.run import Run


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("schedule.steps=-1", "schedule.steps: -1 is out of range"),
        ("schedule.steps=2.5", "schedule.steps: 2.5 is out of range"),
        ("schedule.steps=13", r"schedule.steps: 13 is not between 0 and total_steps \(12\)"),
        ("schedule={use: one_cycle, max_lr: 0.1, total_steps: 3}", "schedule: OneCycleLR is for 3 steps, and the run has 12"),
        ("schedule={use: multi_step, milestones: 3}", "schedule: MultiStepLR refuses these arguments: 'int' object"),
        ("schedule={use: cosine_annealing, T_max: 0}", "schedule.T_max: 0 is out of range"),
        (
            "optimizer={use: adamw, fused: true, foreach: true}",
            "optimizer: adamw refuses these arguments: `fused` and",
        ),
        ("mesh={replicate: 0}", "mesh.replicate: 0 is out of range: int of at least 1 | -1 is wanted"),
        ("mesh={replicate: -2}", "mesh.replicate: -2 is out of range"),
        ("mesh={stages: 2}", "mesh.stages: 1f1b has 1 stage a rank"),
        ("mesh={shard: -1, replicate: -1}", "mesh: only one axis may be -1, and replicate and shard are"),
        ("device=gpu", "device: 'gpu' is no device of torch"),
        ("wing=torhc", "wing: there is no wing 'torhc'; allowed: .*torch"),
        ("checkpoint.metric=foo", "checkpoint.metric: an evaluation gives no 'foo'; it gives such as valid/foo"),
        ("data={train: {source: 'runs:Blobs'}}", "data.train: Batches needs batch_size"),
        ("init_from=nofile", "init_from: there is no run or file nofile"),
        ("model={use: torch.nn:Linear, in_features: 0, out_features: 2}", "model.in_features: 0 is out of range"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_built(change, said):
    with pytest.raises(SpecError, match=said):
        checked(torch_spec().override(change))


def test_what_can_be_is_taken():
    for change in ("schedule.steps=12", "device=cuda:1", "mesh={replicate: -1}", "checkpoint.metric=valid/whatever"):
        checked(torch_spec().override(change))
    checked(torch_spec(init_from="nofile"), begins=False)  # of a run that has begun


GIVEN = {
    "source": {"use": "arrays", "input": [[1.0], [2.0]], "target": [0, 1]}, "batch_size": 1, "mean": 0.0, "std": 1.0,
    "fields": ["input"], "names": {"a": "b"}, "classes": 2, "max_lr": 0.1, "base_lr": 0.01, "step_size": 3, "milestones": [3],
    "gamma": 0.5, "T_max": 5, "T_0": 5, "max_norm": 1.0, "patience": 2, "steps": 2, "alpha": 0.5, "value": 1.0, "eta": 0.1,
    "pixels": 1, "text": [1, 2, 3], "block": 1, "servers": 1, "schedule": "plateau",
}  # fmt: skip
VALUES = dict(zip(INJECTED, (0, 5, 10), strict=True))
OURS = ("middleware", "transform", "order", "reader", "mesh")
BOUND = {
    ("reader/batches", "limit"), ("mesh/ranks", "stages"), ("transform/normalise", "mean"), ("transform/normalise", "std"),
}  # fmt: skip
"""What another argument, or the data, sets a bound to or asks for."""
NEEDS_FILES = ("transform/tokenise_with", "transform/tokenise_words")


def test_no_mapping_of_ours_refuses_a_number_that_its_signature_takes():
    wrong, tried = [], 0
    for kind in OURS:
        for entry in registry.entries(kind):
            if "mapsto." not in entry.reference:
                continue
            known = stated(registry.get(kind, entry.name), registry.kind(kind)).named
            needed = {n: GIVEN.get(n) for n, p in known.items() if p.default is p.empty and n not in VALUES}
            if None in needed.values() or entry.key in NEEDS_FILES:
                continue
            for name in known:
                for value in (-1, 0, 2.5):
                    try:
                        part = check(Part(entry.name, {**needed, name: value}), kind, kind, INJECTED)
                    except MapstoError:
                        continue
                    tried += 1
                    try:
                        part.build(injected=VALUES)
                    except MapstoError as error:
                        if (entry.key, name) not in BOUND:
                            wrong.append(f"{entry.key} {name}={value}: {error}")
    assert wrong == []
    assert tried > 50


@pytest.mark.parametrize(
    "model", [{"use": "torch.nn:TransformerEncoderLayer", "d_model": 10, "nhead": 3}, {"use": "torch.nn:Dropout", "p": 2.0}]
)
def test_what_a_library_raises_of_its_arguments_is_one_line_and_a_refused_start_leaves_nothing(tmp_path, model):
    with pytest.raises(SpecError, match=f"^model: {model['use'].partition(':')[2]} refuses these arguments: [^\n]*$"):
        Run(torch_spec(model=model), tmp_path / "run").fit()
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(SpecError):
        Run(torch_spec(model=model), tmp_path / "mine").fit()
    assert list((tmp_path / "mine").iterdir()) == []


def test_weights_that_are_not_numbers_are_no_start_and_a_bare_pickle_is_refused_in_one_line(tmp_path):
    weights = net().state_dict()
    weights["0.bias"] = torch.full_like(weights["0.bias"], float("nan"))
    torch.save(weights, tmp_path / "nan.pt")
    with pytest.raises(MapstoError, match=r"init_from: .*nan.pt holds not-a-number in 0.bias: .*--except"):
        fit(torch_spec(init_from=str(tmp_path / "nan.pt")), tmp_path / "run")
    told = {"path": str(tmp_path / "nan.pt"), "except": ["0.bias"]}
    fit(torch_spec(init_from=told, steps=4), tmp_path / "run")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"a": 1}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MapstoError, match="bare.pt"):
            fit(torch_spec(init_from=str(tmp_path / "bare.pt")), tmp_path / "other")


def test_a_manifest_is_strict_json_whatever_the_settings_hold(tmp_path):
    clip = {"use": "clip_norm", "max_norm": 1.0, "norm_type": float("inf")}
    run, _ = fit(torch_spec(steps=4, middleware=[clip]), tmp_path / "run")
    for path in run.checkpoints.paths():
        found = json.loads((path / "manifest.json").read_text(), parse_constant=lambda word: pytest.fail(word))
        assert found["identity"]["middleware"][0]["norm_type"] == "Infinity"
    Run.resume(tmp_path / "run", "steps=5", schedule_changed=True).fit()


def test_an_error_in_what_a_run_folder_says_names_the_file_and_the_path(tmp_path, capsys):
    fit(torch_spec(steps=4), tmp_path / "run")
    file = tmp_path / "run" / "spec.yaml"
    file.write_text(file.read_text().replace("lr: 0.02", "lr: -0.02"))
    for command in ("show {} --trust", "train --resume {} --trust", "evaluate {} --trust"):
        assert main(command.format(tmp_path / "run").split()) == 1
        assert f"error: {file}: optimizer.lr: -0.02 is out of range" in capsys.readouterr().err


def test_the_best_so_far_may_be_infinite(tmp_path, monkeypatch):
    told = numpy_wing.Program.evaluate
    monkeypatch.setattr(numpy_wing.Program, "evaluate", lambda self, batches: {**told(self, batches), "loss": float("inf")})
    fit(numpy_spec(steps=4, checkpoint={"every": 4}), tmp_path / "run")
    assert Run.resume(tmp_path / "run", "steps=8").fit().best == tmp_path / "run" / "checkpoints" / "step-00000004"


@pytest.mark.parametrize(
    ("module", "name", "given", "said"),
    [
        ("torch.middleware.compiling", "Compile", {"fullgraph": "maybe"}, "compile.fullgraph: .maybe. is a str"),
        ("torch.middleware.health", "Health", {"every": -1}, "health.every: -1 is out of range"),
        ("torch.middleware.clipping", "ClipNorm", {"max_norm": float("nan")}, "clip_norm.max_norm: nan is not a number"),
        ("torch.mesh.ranks", "Ranks", {"replicate": 0}, "ranks.replicate: 0 is out of range"),
        ("engine.observers.early_stopping", "EarlyStopping", {"mode": "mix"}, "early_stopping.mode: 'mix' is not a choice"),
    ],
)
def test_doors_from_python_take_what_their_signatures_say(module, name, given, said):
    made = getattr(importlib.import_module(f"mapsto.{module}"), name)
    with pytest.raises(SpecError, match=said):
        made(**given)
