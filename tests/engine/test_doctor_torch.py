"""The doctor against faults that only a framework has: gradients, weights, precision; each beside a healthy twin."""

from __future__ import annotations

import pytest
from runs import fit
from test_doctor import found, is_healthy

import mapsto
from mapsto.core.errors import LossError
from mapsto.engine.diagnosis import diagnose
from mapsto.engine.folder import RunFolder


def spec(fault: str = "", middleware=(), dtype: str = "float32", **changes):
    """A run of 80 steps and 16 logs, 8 of which look at the parameters."""
    train = {"use": "runs:Blobs", "records": 60}
    fields = {
        "model": {"use": "torch_faults:Net", "fault": fault, "dtype": dtype},
        "optimizer": {"use": "adamw", "lr": 0.01},
        "middleware": list(middleware),
        "data": {"train": {"source": train, "batch_size": 12, "shuffle": True, "transforms": ["torch_faults:single"]}},
        "steps": 80,
        "log_every": 5,
        "checkpoint": {"every": 80, "keep": None, "best": 0},
    }
    return mapsto.Spec(**{**fields, **changes})


WATCHED = [{"use": "health", "every": 4}, {"use": "mixed_precision", "dtype": "fp16"}]


def test_a_healthy_run_is_said_to_be_so_with_all_that_was_looked_at(tmp_path):
    fit(spec(middleware=WATCHED), tmp_path / "run")
    diagnosis = diagnose(tmp_path / "run")
    assert is_healthy(diagnosis), diagnosis.findings
    assert {"no_gradient", "weights_unchanged", "update_ratio", "loss_scale"} <= set(diagnosis.looked)
    health = [r["detail"]["health"] for r in RunFolder(tmp_path / "run").records("log") if "health" in r["detail"]]
    assert health == [{"parameters": 6}] * 8  # logs 1, 2, 3, 4, 6, 8, 12, 16


def test_parameters_that_no_gradient_reaches_are_told_by_name(tmp_path):
    fit(spec("detached"), tmp_path / "detached")
    finding = found(tmp_path / "detached", "no_gradient")
    assert finding.values == {"missing": ["side.weight", "side.bias"], "zero": [], "parameters": 6}
    assert "the loss does not depend on it" in finding.evidence[0]
    fit(spec("dead"), tmp_path / "dead")
    finding = found(tmp_path / "dead", "no_gradient")
    assert finding.values == {"missing": [], "zero": ["first.weight", "first.bias"], "parameters": 6}
    assert finding.title.startswith("no gradient reaches 2 of 6 trained parameters: first.weight, first.bias")


def test_weights_whose_updates_are_rounded_away_are_told(tmp_path):
    """An update of a thousandth of a weight's resolution in bfloat16; the same run in float32 is healthy."""
    sgd = {"use": "sgd", "lr": 1e-6}
    fit(spec(dtype="bfloat16", optimizer=sgd, middleware=WATCHED[:1]), tmp_path / "run")
    finding = found(tmp_path / "run", "weights_unchanged")
    assert set(finding.values["names"]) >= {"first.weight", "side.weight", "head.weight"}
    fit(spec(optimizer={"use": "sgd", "lr": 0.05}, middleware=WATCHED[:1]), tmp_path / "twin")
    assert is_healthy(diagnose(tmp_path / "twin"))


def test_updates_that_are_far_too_large_or_small_are_told(tmp_path):
    groups = {"use": "param_groups", "rules": [{"match": "side.*", "lr": 1e-9}]}
    fit(spec(middleware=[*WATCHED[:1], groups], dtype="float64"), tmp_path / "small")
    assert set(found(tmp_path / "small", "update_too_small").values["parameters"]) == {"side.weight", "side.bias"}
    fit(spec(middleware=WATCHED[:1], optimizer={"use": "adamw", "lr": 3.0}), tmp_path / "large")
    assert "update_too_large" in {f.name for f in diagnose(tmp_path / "large").findings}


def test_a_loss_that_fell_and_rose_is_told_with_where_it_was_best(tmp_path):
    fit(spec(schedule={"use": "torch_faults:rising", "factor": 1.08}, steps=120), tmp_path / "run")
    finding = found(tmp_path / "run", "loss_diverging")
    points = [(r["metrics"]["train/loss"], r["step"]) for r in RunFolder(tmp_path / "run").records("log")]
    assert finding.steps[0] == min(points)[1]


def test_a_loss_that_is_not_finite_is_told_since_when_and_with_the_guard_in_which_module(tmp_path):
    fit(spec("logarithm"), tmp_path / "run")
    finding = found(tmp_path / "run", "nonfinite")
    assert finding.gravity.name == "WRONG"
    assert finding.title == "train/loss is not finite since step 5, from the first log on"
    with pytest.raises(LossError, match="not finite"):
        fit(spec("logarithm", middleware=["nonfinite"]), tmp_path / "guarded")
    finding = found(tmp_path / "guarded", "nonfinite")
    assert finding.gravity.name == "FATAL"
    assert finding.values == {"step": 0, "module": "log", "rank": None}
    assert "it began in module 'log' (Logarithm)" in finding.title


def test_a_loss_scale_that_collapses_is_told(tmp_path):
    fit(spec("root", middleware=WATCHED[1:]), tmp_path / "run")
    finding = found(tmp_path / "run", "loss_scale")
    assert finding.values["skipped"] > 0.9
    assert finding.values["last"] < 1 < finding.values["first"]


def test_skipped_steps_are_told(tmp_path):
    fit(spec("logarithm", middleware=[{"use": "nonfinite", "action": "skip"}]), tmp_path / "run")
    assert "steps_skipped" in {f.name for f in diagnose(tmp_path / "run").findings}


def test_a_run_that_becomes_slower_is_told(tmp_path, simulated):
    fit(spec("grows", steps=130), tmp_path / "run")
    finding = found(tmp_path / "run", "throughput_dropping")
    assert finding.values["last"] < 0.7 * finding.values["first"]
    fit(spec("grows", steps=80), tmp_path / "twin")  # in whose shorter run less than a second is lost to it
    assert diagnose(tmp_path / "twin").healthy
