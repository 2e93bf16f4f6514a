from __future__ import annotations

import json
import math
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import numpy_wing
import pytest
import runs
from runs import fit, numpy_spec, saved, trajectory

import mapsto
from mapsto.core.errors import CheckpointError, DataError, MapstoError, SpecError
from mapsto.engine.checkpoints.saves import Best
from mapsto.engine.folder import LOCK, RunFolder
from mapsto.engine.run import Run


def events(folder, *names):
    return [(r["name"], r["step"]) for r in RunFolder(folder).records(*names)]


def test_a_run_does_what_is_due_in_its_order(tmp_path):
    seen = []
    run, result = fit(numpy_spec(), tmp_path / "run", observers=[lambda event: seen.append((event.name, event.step))])
    expected = [
        ("start", 0),
        ("checkpoint", 3),
        ("log", 4),
        ("evaluate", 5),
        ("checkpoint", 5),  # the best so far
        ("epoch", 6),
        ("checkpoint", 6),
        ("log", 8),
        ("checkpoint", 9),
        ("evaluate", 10),
        ("checkpoint", 10),
        ("log", 12),
        ("epoch", 12),
        ("checkpoint", 12),
        ("log", 13),
        ("evaluate", 13),
        ("checkpoint", 13),
        ("end", 13),
    ]
    assert seen == expected
    assert events(tmp_path / "run") == expected
    assert (result.reason, result.steps, result.epochs) == ("finished", 13, 13 / 6)
    assert result.last.name == "step-00000013"
    assert result.best is not None
    assert run.program.position == 13
    assert run.program.plateau["seen"] == {5: 1, 10: 1}  # the evaluation at the end is on no schedule
    named = {"train/loss", "train/norm", "train/lr", "valid/loss", "valid/accuracy", "time/step", "time/data"}
    assert named <= set(result.metrics)


def test_the_folder_tells_the_run(tmp_path):
    spec = numpy_spec(name="mine")
    fit(spec, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert folder.spec() == spec
    found = folder.environment()
    assert found["seeds"] == {"run": 3}
    assert found["versions"]["numpy_wing"] == "1"
    assert found["summary"]["model"] == "numpy"
    assert {"python", "mapsto", "numpy"} <= set(found["versions"])
    assert found["earlier"] == []
    assert sum(folder.panels()[0]["values"]) == 31
    records = list(folder.records())
    assert [r["epoch"] for r in records] == [r["step"] / 6 for r in records]
    assert records[-1]["detail"]["reason"] == "finished"


def test_the_default_folder_has_name_and_time_and_is_made_by_fit_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = Run(numpy_spec(name="mine", steps=1)), None
    assert not Path("runs").exists()
    first.fit()
    second = Run(numpy_spec(name="mine", steps=1), None)
    second.fit()
    names = sorted(p.name for p in Path("runs").iterdir())
    assert len(names) == 2
    assert all(n.startswith("mine-2") for n in names)


def test_a_run_from_keywords_and_what_it_refuses(tmp_path):
    fields = {f: getattr(numpy_spec(), f) for f in ("model", "optimizer", "task", "data", "wing", "steps", "seed")}
    assert Run(**fields, folder=tmp_path / "a").fit().steps == 13
    with pytest.raises(SpecError, match="either a spec or the arguments"):
        Run()
    with pytest.raises(SpecError, match="either a spec or the arguments"):
        Run(numpy_spec(), steps=3)
    with pytest.raises(SpecError, match=r"a dict, and a mapsto\.Spec is wanted"):
        Run({"model": 1})  # type: ignore[arg-type]


def test_a_folder_that_holds_a_run_is_refused_and_untouched(tmp_path):
    fit(numpy_spec(steps=2), tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match=r"holds a run already: go on with it \(mapsto train --resume"):
        Run(numpy_spec(), tmp_path / "run").fit()
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}

    (tmp_path / "failed").mkdir()
    (tmp_path / "failed/spec.yaml").touch()
    (tmp_path / "failed/.lock").touch()
    with pytest.raises(CheckpointError, match=r"ended before its first checkpoint: begin it again \(.*--continue\), or name"):
        Run(numpy_spec(), tmp_path / "failed").fit()


def test_a_folder_of_other_files_is_refused_and_nobody_is_told_to_remove_it(tmp_path):
    for name in "abcd":
        (tmp_path / name).touch()
    with pytest.raises(
        CheckpointError, match=r"is not empty and holds no run \(there is a, b, c, \.\.\.\): name a folder"
    ) as told:
        Run(numpy_spec(), tmp_path).fit()
    assert "remove" not in str(told.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == list("abcd")


def test_a_bad_spec_is_told_before_anything_is_read_or_made(tmp_path):
    with pytest.raises(SpecError, match=r"optimizer\.rate: adam has no argument 'rate'"):
        Run(numpy_spec(optimizer={"use": "numpy_wing:adam", "rate": 1}), tmp_path / "run").fit()
    with pytest.raises(SpecError, match=r"wing: there is no wing 'nunpy'.*did you mean 'numpy'"):
        Run(numpy_spec(wing="nunpy"), tmp_path / "run").fit()
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"a run cannot be kept in .*file/run: Not a directory"):
        Run(numpy_spec(), tmp_path / "file/run").fit()
    with pytest.raises(CheckpointError, match=r"panels\.json cannot be written: FileExistsError"):
        RunFolder(tmp_path / "file").write_panels([])


def test_a_live_object_that_tells_another_thing_after_training_is_still_the_same(tmp_path):
    class Chatty(runs.Blobs):
        def __repr__(self):
            return f"Chatty({len(self.read)} reads)"

    spec = lambda: numpy_spec(data={**numpy_spec().data, "train": {"source": Chatty(), "batch_size": 9}})  # noqa: E731
    run, _ = fit(spec(), tmp_path / "run")
    assert run.evaluate("valid", checkpoint="best")["loss"] > 0
    assert Run(spec(), tmp_path / "run").fit(resume=True).steps == 13


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    from mapsto.core import durable

    durable.replace(tmp_path / "a", b"old")
    monkeypatch.setattr(durable.os, "fsync", lambda handle: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        durable.replace(tmp_path / "a", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


def test_epochs_steps_and_the_default(tmp_path):
    assert Run(numpy_spec(steps=None), tmp_path / "a").total_steps == 6
    assert Run(numpy_spec(steps=None, epochs=4), tmp_path / "a").total_steps == 24


def test_two_runs_of_one_spec_are_bitwise_equal_and_another_seed_is_not(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        np.random.seed(len(name) + seed)
        random.seed(seed)
        fit(numpy_spec(seed=seed), tmp_path / name)
    a, b, c = (trajectory(tmp_path / n, 13) for n in "abc")
    assert a == b
    assert a["program.model.w1"] != c["program.model.w1"]


def test_the_caller_s_random_streams_are_as_before(tmp_path):
    random.seed(1)
    np.random.seed(1)
    before = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    fit(numpy_spec(), tmp_path / "a")
    assert (random.random(), np.random.random()) == before


# -- evaluating --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"drop_last": True}, {"drop_last": True, "shuffle": True}])
def test_evaluation_reads_each_record_once_in_order(tmp_path, options):
    source = runs.Blobs(31, seed=2)
    data = {**numpy_spec().data, "test": {"source": source, "batch_size": 8, **options}}
    run, _ = fit(numpy_spec(data=data), tmp_path / "run")
    source.read.clear()
    found = run.evaluate("test")
    assert source.read == list(range(31))
    everything = source[np.arange(31)]
    logp = run.program._forward(run.program.ema, everything["input"])[2]  # one batch, by hand
    assert found["accuracy"] == pytest.approx((logp.argmax(1) == everything["target"]).mean(), rel=1e-12)
    assert found["loss"] == pytest.approx(-logp[np.arange(31), everything["target"]].mean(), rel=1e-12)
    classes = np.concatenate([p["class"] for p in run.predict("test")])
    np.testing.assert_array_equal(classes, logp.argmax(1))
    assert events(tmp_path / "run", "evaluate")[-1] == ("evaluate", 13)
    assert list(RunFolder(tmp_path / "run").records())[-1]["metrics"]["test/loss"] == found["loss"]


class Lossy:
    """A reader that says it holds more records than it gives."""

    records, batches_per_epoch = 12, 1

    def stream(self, start, stop):
        import contextlib

        return contextlib.nullcontext(iter([(0, runs.Blobs()[np.arange(11)])]))


def test_an_epoch_that_does_not_hold_each_record_is_an_error(tmp_path):
    run, _ = fit(numpy_spec(), tmp_path / "run")
    with pytest.raises(DataError, match="the reader: 11 records were evaluated, and the reader holds 12"):
        run.evaluate(Lossy())


def test_evaluating_best_and_last_of_a_finished_run_from_its_folder(tmp_path):
    spec = numpy_spec(checkpoint={"every": 3, "keep": 1, "best": 1, "metric": "valid/loss", "mode": "max"})
    run, result = fit(spec, tmp_path / "run")
    assert result.best != result.last  # the greatest loss is the first
    kept = sorted(p.name for p in run.folder.checkpoints.iterdir())
    assert kept == [result.best.name, result.last.name]
    last, best = run.evaluate("valid"), run.evaluate("valid", checkpoint="best")
    assert best["loss"] == next(run.folder.records("evaluate"))["metrics"]["valid/loss"]
    assert last["loss"] != best["loss"]
    assert run.program.position == 13  # lent, not taken
    assert run.evaluate("valid") == last
    for which, expected in ((None, last), ("last", last), ("best", best), (5, best)):
        options = {} if which is None else {"checkpoint": which}
        assert Run.resume(tmp_path / "run", **options).evaluate("valid") == expected
        assert Run(spec, tmp_path / "run").evaluate("valid", **options) == expected
    assert Run.resume(result.best).evaluate("valid") == best
    fresh = Run(spec, tmp_path / "nowhere").evaluate("valid")
    assert fresh["loss"] not in (last["loss"], best["loss"])
    assert not (tmp_path / "nowhere").exists()


def test_an_unknown_reader_and_what_is_no_reader(tmp_path):
    run = Run(numpy_spec(), tmp_path / "run")
    with pytest.raises(DataError, match=r"data\.tests: the spec names no such reader.*did you mean 'test'"):
        run.evaluate("tests")
    with pytest.raises(DataError, match=r"data\.tests"):
        run.predict("tests")
    data = {**numpy_spec().data, "test": object()}
    with pytest.raises(DataError, match=r"data\.test: object is no reader: it has no stream, batches_per_epoch, records"):
        Run(numpy_spec(data=data), tmp_path / "run").reader("test")


# -- the best ----------------------------------------------------------------------------------------------------------
KEPT = [("min", 1, 1), ("max", 1, 1), ("min", 2, 2), ("max", 3, None), ("min", 0, 1)]


@pytest.mark.parametrize(("mode", "best", "keep"), KEPT)
def test_the_best_checkpoints_stand_and_the_rest_is_pruned(tmp_path, mode, best, keep):
    plan = {"every": 2, "keep": keep, "best": best, "metric": "valid/accuracy", "mode": mode}
    run, result = fit(numpy_spec(steps=30, evaluate_every=3, checkpoint=plan), tmp_path / "run")
    values = {r["step"]: r["metrics"]["valid/accuracy"] for r in run.folder.records("evaluate")}
    sign = 1 if mode == "min" else -1
    expected = sorted(values, key=lambda s: (sign * values[s], s))[:best]
    kept = [int(p.name[5:]) for p in sorted(run.folder.checkpoints.iterdir())]
    assert set(expected) <= set(kept)
    if keep is not None:
        newest = sorted(s for _, s in events(tmp_path / "run", "checkpoint"))[-keep:]
        assert set(kept) == set(expected) | set(newest)
    assert (result.best and int(result.best.name[5:])) == (expected[0] if best else None)


def test_not_a_number_is_never_the_best():
    best = Best(2, "valid/loss", "max")
    for step, value in enumerate([1.0, math.nan, 3.0, 3.0, math.inf, 2.0]):
        best.rank(step, {"valid/loss": value})
        best.rank(step, {"valid/loss": value})
    assert best.steps() == [4, 2]


STOPPING = {"use": "early_stopping", "patience": 1}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"checkpoint": {"metric": "valid/acuracy"}}, r"checkpoint.metric: .*; did you mean 'valid/accuracy'"),
        ({"checkpoint": {"metric": "train/loss"}}, r"checkpoint.metric: .* gives no 'train/loss'; it gives such as valid/loss"),
        ({"observers": [{**STOPPING, "metric": "valid/Loss"}]}, r"observers.early_stopping: .*did you mean 'valid/loss'"),
        ({"observers": [STOPPING], "evaluate_every": 14}, "'valid/loss', which is told every 14 steps, and the run has 13"),
        ({"observers": [STOPPING], "without": "valid"}, "observers.early_stopping: .* nothing is evaluated .* add data.valid"),
        ({"checkpoint": {"mode": "max"}, "without": "valid"}, "checkpoint.metric: it waits for 'valid/loss', and nothing is"),
    ],
)
def test_what_waits_for_a_metric_that_never_comes_is_told_before_the_first_step(tmp_path, changes, told):
    data = {name: reader for name, reader in numpy_spec().data.items() if name != changes.get("without")}
    spec = numpy_spec(**{k: v for k, v in changes.items() if k != "without"}, data=data)
    run = Run(spec, tmp_path / "run")
    with pytest.raises(SpecError, match=told):
        run.fit()
    assert (run.program.position, list(run.folder.records())) == (0, [])


def test_looking_for_a_metric_s_name_changes_no_bit_of_the_run(tmp_path):
    named = numpy_spec(checkpoint={"every": 3, "keep": None, "best": 1, "metric": "valid/accuracy", "mode": "max"})
    fit(named, tmp_path / "looked")
    fit(numpy_spec(), tmp_path / "bare")
    looked, bare = (trajectory(tmp_path / name, 13) for name in ("looked", "bare"))
    assert {k for k in bare if looked[k] != bare[k]} == {"plain"}  # which holds the best, by another metric


def test_several_validation_sets_are_all_evaluated_and_named(tmp_path):
    data = dict(numpy_spec().data)
    data["valid_hard"] = {**data["valid"].args, "source": {"use": "runs:Blobs", "records": 11, "seed": 9}}
    data["test_later"] = data["test"]
    plan = {"every": 3, "keep": None, "best": 1, "metric": "valid_hard/accuracy", "mode": "max"}
    stopping = {**STOPPING, "metric": "valid_hard/accuracy", "mode": "max", "min_delta": 1.0}
    run, result = fit(numpy_spec(data=data, checkpoint=plan, observers=[stopping]), tmp_path / "run")
    told = list(run.folder.records("evaluate"))
    names = {"valid/loss", "valid/accuracy", "valid_hard/loss", "valid_hard/accuracy", "time/evaluate"}
    assert [(e["step"], set(e["metrics"])) for e in told] == [(5, names), (10, names)]
    assert (result.reason, result.why.partition(" ")[0]) == ("stopped", "valid_hard/accuracy")
    found = run.evaluate("valid_hard")
    assert found == {k: told[-1]["metrics"][f"valid_hard/{k}"] for k in found} != run.evaluate("valid")
    entries = saved(tmp_path / "run", result.steps)["best"]["entries"]
    values = {e["step"]: e["metrics"]["valid_hard/accuracy"] for e in told}
    assert entries == [{"step": s, "value": values[s]} for s in sorted(values, key=lambda s: -values[s])[:1]]


def test_evaluate_takes_valid_where_there_is_no_test_and_says_so(tmp_path, caplog):
    data = {name: reader for name, reader in numpy_spec().data.items() if name != "test"}
    run, _ = fit(numpy_spec(data=data), tmp_path / "run")
    assert run.evaluate() == run.evaluate("valid")
    assert "the spec has no data.test: data.valid is evaluated" in caplog.text


def test_without_valid_nothing_is_evaluated(tmp_path):
    data = {"train": numpy_spec().data["train"]}
    run, result = fit(numpy_spec(data=data), tmp_path / "run")
    assert result.best is None
    assert events(tmp_path / "run", "evaluate") == []
    with pytest.raises(CheckpointError, match="keeps no best checkpoint"):
        run.evaluate("train", checkpoint="best")
    assert run.folder.panels() == []


# -- failing -----------------------------------------------------------------------------------------------------------
def test_what_a_mapping_raises_ends_the_run_with_what_was_saved(tmp_path):
    def poisoned(batch):
        poisoned.batches += 1
        return {**batch, "input": batch["input"] * np.nan} if poisoned.batches > 7 else batch

    def count_from_the_start(event):
        seen.append(event)
        if event.name == "start":
            poisoned.batches = 0

    poisoned.batches = 0
    seen, data = [], {**numpy_spec().data, "train": {"source": runs.Blobs(), "batch_size": 9, "transforms": [poisoned]}}
    with pytest.raises(DataError, match="not-a-number"):
        fit(numpy_spec(data=data), tmp_path / "run", observers=[count_from_the_start])
    assert (seen[-1].name, seen[-1].detail["reason"], seen[-1].step) == ("end", "failed", 7)
    assert "DataError: the batch holds not-a-number" in seen[-1].detail["why"]
    assert seen[-1].detail["last"].endswith("step-00000006")
    assert runs.saved(tmp_path / "run", 6)["position"] == 6


def test_a_program_that_loses_count_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(numpy_wing.Program, "position", property(lambda self: max(self.taken - 1, 0)))
    with pytest.raises(MapstoError, match="the program counted 2 steps where 3 batches were given"):
        fit(numpy_spec(), tmp_path / "run")


def test_a_reader_that_ends_early_is_an_error(tmp_path):
    class Short:
        records, batches_per_epoch = 50, 6

        def stream(self, start, stop):
            import contextlib

            return contextlib.nullcontext((i, runs.Blobs()[np.arange(9)]) for i in range(5))

    data = {"train": Short()}
    with pytest.raises(DataError, match=r"data\.train: the reader ended at step 5 of 13"):
        fit(numpy_spec(data=data), tmp_path / "run")


def test_a_full_device_ends_the_run_and_names_the_newest_good_checkpoint(tmp_path, monkeypatch):
    import errno

    saves = []

    def save(tensors, path, inner=numpy_wing.save_tensors):
        saves.append(path)
        if len(saves) == 3:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        inner(tensors, path)

    monkeypatch.setattr(numpy_wing, "save_tensors", save)
    with pytest.raises(CheckpointError, match=r"step 6 could not be written: no space left .* one is .*step-00000005"):
        fit(numpy_spec(), tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == ["step-00000003", "step-00000005"]
    assert events(tmp_path / "run")[-1] == ("end", 6)
    fit(numpy_spec(), tmp_path / "whole")
    Run.resume(tmp_path / "run").fit()
    assert trajectory(tmp_path / "run", 13) == trajectory(tmp_path / "whole", 13)


def test_a_metrics_line_that_cannot_be_written_is_an_error_and_no_half_line_stays(tmp_path):
    import resource

    folder = RunFolder(tmp_path)
    folder.append({"name": "log", "step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "metrics.jsonl").stat().st_size + 9, before[1]))
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be written"):
            folder.append({"name": "log", "step": 2, "text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    folder.append({"name": "log", "step": 3})
    folder.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 3]


def test_panels_that_fail_do_not_spoil_a_finished_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(numpy_wing.Program, "panels", lambda self, batches: 1 / 0)
    assert fit(numpy_spec(), tmp_path / "run")[1].reason == "finished"
    assert "no panels of data.test" in caplog.text


def test_only_one_process_trains_in_a_folder(tmp_path):
    import subprocess

    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from mapsto.engine.checkpoints.saves import Best
from mapsto.engine.folder import RunFolder
with RunFolder({str(tmp_path / "run")!r}).lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(CheckpointError, match=f"process {other.pid} is training in"):
            Run(numpy_spec(), tmp_path / "run").fit()
    finally:
        other.kill()
        other.communicate()
    assert Run(numpy_spec(), tmp_path / "run").fit().steps == 13  # the lock died with its process


@pytest.mark.parametrize("how", ["link", "second name", "directory"])
def test_the_lock_file_is_no_way_to_another_file(tmp_path, how):
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.write_text("kept")
    if how == "directory":
        (run / LOCK).mkdir()
    else:
        (run / LOCK).symlink_to(other) if how == "link" else (run / LOCK).hardlink_to(other)
    with pytest.raises(CheckpointError, match="a run cannot be kept in"):
        Run(numpy_spec(), run).fit()
    assert other.read_text() == "kept"


@pytest.mark.parametrize("name", ["checkpoints", "recipes"])
def test_a_link_in_a_run_s_folder_is_no_way_to_another_folder(tmp_path, name):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    Run(numpy_spec(), mine).fit()
    (mine / name).mkdir(exist_ok=True)
    kept = sorted(mine.rglob("*"))
    shutil.copytree(mine, theirs)
    shutil.rmtree(theirs / name)
    (theirs / name).symlink_to(mine / name)
    with pytest.raises(CheckpointError, match=f"{name} is a link, and what it leads to is left alone"):
        Run(numpy_spec(), theirs).fit(resume=True)
    assert sorted(mine.rglob("*")) == kept


def test_mapsto_run_is_this_run():
    assert mapsto.Run is Run
