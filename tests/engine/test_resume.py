"""Going on is bitwise the run that was never interrupted, or an error."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import numpy_wing
import pytest
import runs
from runs import fit, numpy_spec, trajectory

from mapsto.core.errors import CheckpointError, SpecError
from mapsto.engine.checkpoints.checkpoint import Checkpoints
from mapsto.engine.checkpoints.manifest import MANIFEST
from mapsto.engine.folder import RunFolder
from mapsto.engine.run import Run

EVERY = {"every": 1, "keep": None, "best": 1}


def stop_at(step):
    """An observer that ends a run at its checkpoint of a step."""

    def stop(event):
        if event.name == "checkpoint" and event.step == step:
            event.run.ask_to_stop(f"step {step}")

    return stop


def lines(folder, *names):
    """What a run told, without what depends on the clock."""
    kept = []
    for record in RunFolder(folder).records(*names):
        metrics = {k: v for k, v in record["metrics"].items() if not k.startswith(("time/", "throughput/", "memory/"))}
        kept.append((record["name"], record["step"], metrics))
    return kept


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 13 steps that nothing interrupted, with a checkpoint at every step."""
    from mapsto.core.wings import WINGS

    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WINGS, "numpy", numpy_wing.FRAMEWORK)
        fit(numpy_spec(checkpoint=EVERY), folder)
    return folder


@pytest.mark.parametrize("step", range(1, 13))
def test_from_every_step_it_is_bitwise_the_same(tmp_path, whole, step):
    _, first = fit(numpy_spec(checkpoint=EVERY), tmp_path / "run", observers=[stop_at(step)])
    assert (first.reason, first.steps) == ("stopped", step)
    told = []
    second = Run.resume(tmp_path / "run", observers=[told.append]).fit()
    assert (second.reason, second.steps) == ("finished", 13)
    for later in range(step, 14):
        assert trajectory(tmp_path / "run", later) == trajectory(whole, later), later
    assert second.metrics["train/loss"] == Run.resume(whole).fit().metrics["train/loss"]
    names = ("log", "evaluate", "epoch", "checkpoint")
    assert lines(tmp_path / "run", *names) == lines(whole, *names)  # also the log whose window the stop cut in two
    resumed = told[0].detail["resumed"]
    assert (told[0].name, resumed["step"], resumed["epoch"]) == ("start", step, step / 6)
    assert resumed["path"].endswith(f"step-{step:08d}")
    assert resumed["restored"] == ["best", "latest", "observers", "position", "program", "random", "window"]
    assert resumed["notes"] == []


def test_from_an_older_checkpoint_of_a_longer_run(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "run")
    told = []
    result = Run.resume(tmp_path / "run", checkpoint=7, observers=[told.append]).fit()
    assert result.steps == 13
    assert trajectory(tmp_path / "run", 13) == trajectory(whole, 13)
    assert lines(tmp_path / "run", "log", "evaluate", "checkpoint") == lines(whole, "log", "evaluate", "checkpoint")
    assert told[0].detail["resumed"]["set_aside"] == [f"was-step-{s:08d}" for s in range(8, 14)]
    assert told[0].detail["resumed"]["cut"] > 0


@pytest.mark.parametrize("what", ["program", "position", "random", "window"])
def test_the_comparison_would_see_what_is_not_restored(tmp_path, whole, monkeypatch, what):
    """The control: leave one thing out of the restoring, and the bits differ."""
    fit(numpy_spec(checkpoint=EVERY), tmp_path / "run", observers=[stop_at(6)])
    load = Checkpoints.load

    def forget(self, path, *_, **options):
        found = load(self, path, **options)
        if what == "program":
            found.tree["program"]["ema"] = found.tree["program"]["model"]
        elif what == "random":
            found.tree["random"]["python"] = (3, (1,) * 624 + (624,), None)
        elif what == "window":
            found.tree["window"] = []
        else:
            found.tree["program"]["step"] += 1
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "load", forget)
        if what == "position":
            with pytest.raises(CheckpointError, match="the state is of step 6, the program's of step 7"):
                Run.resume(tmp_path / "run").fit()
            return
        Run.resume(tmp_path / "run").fit()
    if what == "window":
        assert lines(tmp_path / "run", "log") != lines(whole, "log")
    else:
        assert trajectory(tmp_path / "run", 13) != trajectory(whole, 13)


def test_a_cold_start_differs(tmp_path, whole):
    fit(numpy_spec(steps=7, checkpoint=EVERY), tmp_path / "run")
    assert trajectory(tmp_path / "run", 7)["program.model.w1"] != trajectory(whole, 13)["program.model.w1"]


def test_in_a_new_process(tmp_path, whole):
    fit(numpy_spec(checkpoint=EVERY), tmp_path / "run", observers=[stop_at(4)])
    code = """
        import sys; sys.path[:0] = sys.argv[2:]
        import numpy_wing; from mapsto.core.wings import add_wing; add_wing(numpy_wing.FRAMEWORK)
        from mapsto.engine.run import Run
        print(Run.resume(sys.argv[1]).fit().steps)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(tmp_path / "run"), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "13\n", done.stderr
    assert trajectory(tmp_path / "run", 13) == trajectory(whole, 13)


def test_repeated_interruptions(tmp_path, whole):
    fit(numpy_spec(checkpoint=EVERY), tmp_path / "run", observers=[stop_at(1)])
    for step in range(2, 13):
        assert Run.resume(tmp_path / "run", observers=[stop_at(step)]).fit().steps == step
    Run.resume(tmp_path / "run").fit()
    assert trajectory(tmp_path / "run", 13) == trajectory(whole, 13)
    told = [(n, s) for n, s, _ in lines(tmp_path / "run", "log", "evaluate", "epoch", "checkpoint")]
    assert len(told) == len(set(told))
    assert len(RunFolder(tmp_path / "run").environment()["earlier"]) == 12


# -- what may change, and what may not ---------------------------------------------------------------------------------
def test_steps_may_grow_and_it_is_told(tmp_path, caplog):
    fit(numpy_spec(), tmp_path / "run")
    told = []
    result = Run.resume(tmp_path / "run", "steps=20", "log_every=2", observers=[told.append]).fit()
    assert result.steps == 20
    assert told[0].detail["resumed"]["notes"] == ["the run was 13 steps long and is 20 now"]
    assert caplog.text == ""
    Run.resume(tmp_path / "run", "steps=21").fit()
    assert "20 steps long and is 21 now" in caplog.text  # where nobody watches
    assert RunFolder(tmp_path / "run").spec().steps == 21
    names = [(n, s) for n, s, _ in lines(tmp_path / "run", "log", "evaluate", "epoch", "checkpoint")]
    assert len(names) == len(set(names))


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    _, first = fit(numpy_spec(), tmp_path / "run")
    again = Run.resume(tmp_path / "run").fit()
    assert again.metrics["valid/loss"] == first.metrics["valid/loss"]
    assert (again.steps, again.last, again.best) == (13, first.last, first.best)


def test_what_decides_the_trajectory_is_refused_with_its_paths(tmp_path):
    fit(numpy_spec(), tmp_path / "run")
    with pytest.raises(SpecError, match=r"optimizer\.lr: 0\.05 there, 0\.1 here; seed: 3 there, 4 here\. Start a new run"):
        Run.resume(tmp_path / "run", "optimizer.lr=0.1", "seed=4", "epochs=5")
    with pytest.raises(CheckpointError, match=r"is a checkpoint of another spec:\n  optimizer\.lr: 0\.05 there, 0\.1 here"):
        Run(numpy_spec().override("optimizer.lr=0.1"), tmp_path / "run").fit(resume=True)
    with pytest.raises(CheckpointError, match=r"model\.hidden: nothing there, 9 here"):
        Run(numpy_spec().override("model.hidden=9"), tmp_path / "run").evaluate("test")


def test_the_number_of_reading_processes_may_change_and_the_bits_do_not(tmp_path, whole):
    spec = numpy_spec(checkpoint=EVERY).override("data.train.workers=2", "data.train.prefetch=3")
    fit(spec, tmp_path / "run", observers=[stop_at(4)])
    Run.resume(tmp_path / "run", "data.train.workers=1", observers=[stop_at(8)]).fit()
    Run.resume(tmp_path / "run", "data.train.workers=0", "data.test.batch_size=5").fit()
    for step in range(1, 14):
        assert trajectory(tmp_path / "run", step) == trajectory(whole, step)


def test_a_live_reader_has_an_identity_too(tmp_path):
    reader = Run(numpy_spec()).reader("train")
    fit(numpy_spec(data={"train": reader}, steps=2), tmp_path / "run")
    assert Run(numpy_spec(data={"train": reader}, steps=2), tmp_path / "run").fit(resume=True).steps == 2
    with pytest.raises(CheckpointError, match=r"data\.train\.live: .* there, nothing here"):
        Run(numpy_spec(steps=2), tmp_path / "run").fit(resume=True)


def test_a_checkpoint_whose_state_does_not_fit_is_an_error_and_no_fresh_start(tmp_path, monkeypatch):
    fit(numpy_spec(steps=4), tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    load = Checkpoints.load

    def damaged(self, path, *_, **options):
        found = load(self, path, **options)
        del found.tree["program"]["ema"]
        return found

    monkeypatch.setattr(Checkpoints, "load", damaged)
    for act in (lambda: Run.resume(tmp_path / "run").fit(), lambda: Run.resume(tmp_path / "run").evaluate("test")):
        with pytest.raises(CheckpointError, match=r"step-00000004: the keys do not fit"):
            act()

    def other(self, path, *_, **options):
        found = load(self, path, **options)
        found.tree["surprise"] = found.tree.pop("window")
        return found

    monkeypatch.setattr(Checkpoints, "load", other)
    with pytest.raises(CheckpointError, match="missing or unexpected in the state: surprise, window"):
        Run.resume(tmp_path / "run").fit()
    for key, value in (("window", ["x"]), ("window", [{"loss": "much"}]), ("latest", {"train/loss": "little"})):

        def odd(self, path, *_, key=key, value=value, **options):
            found = load(self, path, **options)
            found.tree[key] = value
            return found

        monkeypatch.setattr(Checkpoints, "load", odd)
        with pytest.raises(CheckpointError, match="step-00000004: its state cannot be put back"):
            Run.resume(tmp_path / "run").fit()
    told = [r["detail"]["reason"] for r in RunFolder(tmp_path / "run").records("end")]
    assert told == ["finished", *["failed"] * 5]
    assert (tmp_path / "run/metrics.jsonl").read_bytes().startswith(before)


def test_nothing_to_go_on_with(tmp_path):
    with pytest.raises(CheckpointError, match="there is no run in .* to go on with"):
        Run(numpy_spec(), tmp_path / "run").fit(resume=True)
    fit(numpy_spec(steps=1), tmp_path / "there")
    with pytest.raises(SpecError, match=r"is not the folder of a run: it has no spec\.yaml; runs beside it: .*there"):
        Run.resume(tmp_path / "their")
    shutil.rmtree(tmp_path / "there/checkpoints")
    with pytest.raises(CheckpointError, match="there are: none"):
        Run.resume(tmp_path / "there").fit()


def test_a_corrupt_newest_is_fatal_and_names_what_to_do_and_that_works(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "run")
    for step in range(9, 14):
        shutil.rmtree(tmp_path / f"run/checkpoints/step-{step:08d}")
    file = tmp_path / "run/checkpoints/step-00000008/state.json"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as error:
        Run.resume(tmp_path / "run").fit()
    assert f"{file} is corrupt" in str(error.value)
    command = str(error.value).rsplit("mapsto train --resume ", 1)[1]
    assert Run.resume(command).fit().steps == 13
    assert trajectory(tmp_path / "run", 13) == trajectory(whole, 13)


@pytest.mark.parametrize("act", [lambda folder: Run.resume(folder).fit(), lambda folder: Run.resume(folder).evaluate("test")])
def test_a_corrupt_manifest_names_the_intact_ones_too(tmp_path, whole, act):
    shutil.copytree(whole, tmp_path / "run")
    file = tmp_path / "run/checkpoints/step-00000013" / MANIFEST
    file.write_text(file.read_text().replace("total_steps", "total_stops"))
    with pytest.raises(CheckpointError) as error:
        act(tmp_path / "run")
    assert f"{file} is corrupt" in str(error.value)
    command = str(error.value).rsplit("mapsto train --resume ", 1)[1]
    assert command.endswith("step-00000012")
    assert Run.resume(command).evaluate("test")["loss"] > 0
    assert Run.resume(command).fit().steps == 13
    assert trajectory(tmp_path / "run", 13) == trajectory(whole, 13)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_folder_that_is_removed_is_told_at_the_next_checkpoint(tmp_path, asynchronous):
    def remove(event):
        if event.name == "log" and event.step == 4:
            shutil.rmtree(tmp_path / "run")

    spec = numpy_spec(checkpoint={"every": 5, "asynchronous": asynchronous})
    with pytest.raises(
        CheckpointError, match=r"the run folder .*run was removed or moved while the run goes on, so the checkpoint"
    ):
        fit(spec, tmp_path / "run", observers=[remove])
    assert not (tmp_path / "run/checkpoints").exists()


def test_changed_versions_and_recipes_are_told(tmp_path, monkeypatch):
    recipe = tmp_path / "noted.py"
    recipe.write_text("import mapsto\n")
    monkeypatch.chdir(tmp_path)
    fit(numpy_spec(imports=["noted.py"], steps=4), tmp_path / "run")
    assert RunFolder(tmp_path / "run").spec().imports == (str(recipe),)
    recipe.write_text("import mapsto  # now another\n")
    monkeypatch.setattr(numpy_wing, "versions", lambda: {"numpy_wing": "2"})
    told = []
    monkeypatch.chdir(Path(__file__).parent)
    Run.resume(tmp_path / "run", observers=[told.append]).fit()
    notes = told[0].detail["resumed"]["notes"]
    (copy,) = [p for p in (tmp_path / "run/recipes").iterdir() if p.read_text() == "import mapsto\n"]
    assert f"{recipe} was changed since, and is taken as the run has kept it: {copy} (otherwise: --recipes-changed)" in notes
    assert len(list((tmp_path / "run/recipes").glob("noted-*"))) == 1
    assert "numpy_wing was 1 and is 2 now" in notes


def test_a_spec_with_a_live_object_goes_on_from_python_and_says_so(tmp_path, whole):
    def spec():
        live = {**numpy_spec().data, "test": {"source": runs.Blobs(31), "batch_size": 8}}
        return numpy_spec(data=live)

    _, first = fit(spec(), tmp_path / "run", observers=[stop_at(6)])
    assert first.go_on == f"Run(spec, {str(tmp_path / 'run')!r}).fit(resume=True)"
    with pytest.raises(SpecError, match=r"live object.*\nGo on from Python: Run\(spec, '.*run'\)\.fit\(resume=True\)"):
        Run.resume(tmp_path / "run")
    assert Run(spec(), tmp_path / "run").fit(resume=True).steps == 13
    assert trajectory(tmp_path / "run", 13)["program.model.w1"] == trajectory(whole, 13)["program.model.w1"]


# -- positions ---------------------------------------------------------------------------------------------------------
def test_going_on_at_position_a_billion_reads_only_what_comes(tmp_path):
    """The state of the data is one integer: nothing before it is read or skipped through."""
    source = runs.Blobs(10**12)
    data = {"train": {"source": source, "batch_size": 9, "shuffle": True}}
    spec = numpy_spec(data=data, steps=10**9 + 3, checkpoint={"every": 10**9})
    fit(spec, tmp_path / "run", observers=[lambda e: e.run.ask_to_stop("enough") if e.name == "log" else None])
    # What the fingerprint reads before the start is as much at any position, and does not count.
    run = Run(spec, tmp_path / "run", observers=[lambda e: source.read.clear() if e.name == "start" else None])
    folder = run.checkpoints
    tree = folder.load(folder.find("last")).tree
    manifest = json.loads((folder.find("last") / MANIFEST).read_bytes())
    tree["position"] = tree["program"]["step"] = 10**9
    kept = ("versions", "epoch", "total_steps", "metrics", "best", "identity", "identity_digest", "data")
    folder.save(10**9, tree, {k: manifest[k] for k in kept})
    assert run.fit(resume=True).steps == 10**9 + 3
    assert len(source.read) == 3 * 9
    expected = np.concatenate([run.reader("train").indices(10**9 + i) for i in range(3)])
    assert source.read == expected.tolist()


# -- metrics -----------------------------------------------------------------------------------------------------------
def test_cutting_back_is_one_rename_and_leaves_torn_lines_out(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.cut(3) == 0
    for step in range(6):
        folder.append({"name": "log", "step": step})
    folder.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"name": "log", "st')
    assert [r["step"] for r in folder.records()] == [0, 1, 2, 3, 4, 5]
    assert folder.cut(3) == 3
    assert [r["step"] for r in folder.records("log")] == [0, 1, 2, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    inode = (tmp_path / "metrics.jsonl").stat().st_ino
    assert folder.cut(9) == 0
    assert (tmp_path / "metrics.jsonl").stat().st_ino == inode


def test_a_checkpoint_that_was_not_told_is_told_when_going_on(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "run")
    file = tmp_path / "run/metrics.jsonl"
    told = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [r for r in told if r["step"] < 13 or r["name"] in ("log", "evaluate")]
    file.write_text("".join(json.dumps(r) + "\n" for r in kept))
    Run.resume(tmp_path / "run").fit()
    assert [r["step"] for r in RunFolder(tmp_path / "run").records("checkpoint")] == list(range(1, 14))


def test_another_metric_of_the_best_counts_afresh_and_a_best_that_is_gone_is_told(tmp_path):
    plan = {"every": 3, "keep": 1, "best": 1, "mode": "max"}
    fit(numpy_spec(checkpoint=plan), tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    told = []
    Run.resume(tmp_path / "run", "checkpoint.metric=valid/accuracy", "steps=20", observers=[told.append]).fit()
    assert told[0].detail["resumed"]["notes"][0] == "the best is counted afresh: it was the max of valid/loss"
    shutil.rmtree(tmp_path / "other/checkpoints/step-00000005")
    told.clear()
    result = Run.resume(tmp_path / "other", "steps=20", observers=[told.append]).fit()
    assert "the best checkpoint of step 5 (valid/loss" in told[0].detail["resumed"]["notes"][0]
    assert result.best is not None
