"""`mapsto train`: new runs, resumed ones, signals."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from tests.forked import Forked

from mapsto import load_spec
from mapsto.engine.checkpoints.checkpoint import checkpoint_paths


def tensors(run) -> bytes:
    return (checkpoint_paths(run / "checkpoints")[-1] / "tensors.safetensors").read_bytes()


def test_a_run_ends_by_naming_its_report(mapsto, spec, tmp_path):
    said = mapsto("train", spec, "--run", tmp_path / "run")
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    assert "finished at step 6" in said.out
    assert "valid: loss" in said.out


def test_quiet_says_only_where_the_report_is(mapsto, spec, tmp_path):
    said = mapsto("train", spec, "--run", tmp_path / "run", "--quiet")
    assert said.out == f"report: {tmp_path / 'run' / 'report.html'}\n"
    assert said.err == f"{spec} names code that is not registered and is run: torch.nn:Linear (model)\n"


def test_overrides_may_stand_anywhere(mapsto, spec, tmp_path):
    said = mapsto("train", spec, "optimizer.lr=0.125", "--run", tmp_path / "run", "epochs=1", "--quiet", "middleware+=ema")
    assert said.code == 0, said.err
    found = load_spec(str(tmp_path / "run"))
    assert (found.optimizer.args["lr"], found.epochs, found.middleware[-1].name) == (0.125, 1, "ema")


def test_the_default_folder(mapsto, spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mapsto("train", spec, "--quiet").out.startswith("report: runs/gates-")


def test_a_spec_that_shows_progress_itself_shows_it_once(mapsto, spec, tmp_path):
    said = mapsto("train", spec, "--run", tmp_path / "run", "observers+=progress")
    assert said.out.count("finished at step 6") == 1


def test_a_recipe_with_a_function_of_another_name(mapsto, tmp_path):
    path = tmp_path / f"named_{tmp_path.name}.py"
    path.write_text(
        "from mapsto import Spec, use\n"
        "def tiny():\n"
        "    source, transforms = {'input': [[1], [2]], 'target': [0, 1]}, [use('scale', factor=1.0)]\n"
        "    data = {'train': {'source': source, 'transforms': transforms, 'batch_size': 2}}\n"
        "    model = use('torch.nn:Linear', in_features=1, out_features=2)\n"
        "    return Spec(model=model, data=data, steps=1, device='cpu')\n"
    )
    assert mapsto("train", f"{path}:tiny", "--run", tmp_path / "run", "--quiet").code == 0
    said = mapsto("train", f"{path}:tini", "--run", tmp_path / "other")
    assert said.code == 1
    assert "did you mean 'tiny'?" in said.err


def test_a_folder_that_holds_a_run_is_refused(mapsto, spec, trained):
    before = tensors(trained)
    said = mapsto("train", spec, "--run", trained)
    assert said.code == 1
    assert f"mapsto train --resume {trained}" in said.err
    assert tensors(trained) == before


def test_a_report_that_fails_does_not_fail_the_run(mapsto, spec, tmp_path, monkeypatch):
    def broken(folder):
        raise ZeroDivisionError("in the page")

    monkeypatch.setattr("mapsto.engine.report.write_report", broken)
    said = mapsto("train", spec, "--run", tmp_path / "run")
    assert said.code == 0
    assert "ZeroDivisionError: in the page" in said.err
    assert f"mapsto report {tmp_path / 'run'}" in said.err


# -- resuming ------------------------------------------------------------------------------------------------------------
def test_a_resumed_run_is_bitwise_the_one_that_went_through(mapsto, spec, tmp_path):
    assert mapsto("train", spec, "epochs=4", "--run", tmp_path / "whole", "--quiet").code == 0
    assert mapsto("train", spec, "epochs=2", "--run", tmp_path / "parts", "--quiet").code == 0
    assert tensors(tmp_path / "parts") != tensors(tmp_path / "whole")
    said = mapsto("train", "--resume", tmp_path / "parts", "epochs=4")
    assert said.code == 0, said.err
    assert "resumed     step 6 from" in said.out
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "whole")


def test_from_an_earlier_checkpoint(mapsto, trained):
    said = mapsto("train", "--resume", trained, "--checkpoint", "3", "epochs=3")
    assert said.code == 0, said.err
    assert "resumed     step 3 from" in said.out
    assert "finished at step 9" in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["optimizer.lr=1"], "optimizer.lr: 0.05 there, 1 here"),
        (["--checkpoint", "4"], "there is no checkpoint '4'"),
    ],
)
def test_what_cannot_be_resumed_says_why(mapsto, trained, words, told):
    said = mapsto("train", "--resume", trained, *words)
    assert said.code == 1
    assert told in said.err


def test_a_folder_without_a_run(mapsto, tmp_path):
    said = mapsto("train", "--resume", tmp_path / "nothing")
    assert said.code == 1
    assert "is not the folder of a run" in said.err


def test_one_command_starts_goes_on_and_is_done(mapsto, spec, tmp_path):
    words = ["train", spec, "--run", tmp_path / "run", "--continue", "--quiet"]
    assert mapsto(*words, "epochs=2").code == 0
    first = tensors(tmp_path / "run")
    assert mapsto(*words, "epochs=2").code == 0  # nothing is left to do
    assert tensors(tmp_path / "run") == first
    assert mapsto(*words, "epochs=4").code == 0
    assert mapsto("train", spec, "epochs=4", "--run", tmp_path / "whole", "--quiet").code == 0
    assert tensors(tmp_path / "run") == tensors(tmp_path / "whole") != first


def test_continue_removes_nothing_of_a_folder_in_which_no_run_was_begun(mapsto, spec, tmp_path):
    own = tmp_path / "own"
    (own / "recipes").mkdir(parents=True)
    (own / "recipes" / "mine.py").write_text("years of work")
    (own / "report.html").write_text("another's")
    said = mapsto("train", spec, "--run", own, "--continue", "--quiet")
    assert (said.code, "is not empty and holds no run (there is recipes, report.html)" in said.err) == (1, True)
    assert (own / "recipes" / "mine.py").read_text() == "years of work"
    assert (own / "report.html").exists()


def test_what_ended_before_its_first_checkpoint_is_begun_anew(mapsto, spec, tmp_path):
    run = tmp_path / "run"
    assert mapsto("train", spec, "--run", run, "--quiet").code == 0
    whole = tensors(run)
    shutil.rmtree(run / "checkpoints")
    (run / "logs").mkdir(exist_ok=True)
    (run / "logs" / "rank-0.log").write_text("kept")
    assert mapsto("train", spec, "--run", run, "--quiet").code == 1  # refused, for nobody said --continue
    assert mapsto("train", spec, "--run", run, "--continue", "--quiet").code == 0
    assert tensors(run) == whole
    assert (run / "logs" / "rank-0.log").read_text() == "kept"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[0] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--continue"], "--continue goes with --run FOLDER"),
        (["--resume", "x", "--continue"], "--continue is for one that may not"),
    ],
)
def test_where_continue_does_not_belong(mapsto, spec, words, told):
    said = mapsto("train", *([] if "--resume" in words else [spec]), *words)
    assert said.code == 2
    assert told in said.err


# -- signals -------------------------------------------------------------------------------------------------------------
def start(loaded, spec, run, *words):
    """A long run in a process of its own, a few steps under way."""
    command = ["-m", "mapsto", "train", spec, "epochs=1000000", "log_every=5", "--run", run, *words]
    process = Forked(loaded, command, environment={"CI": "1"})
    metrics, end = run / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and '"log"' in metrics.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(mapsto, loaded, spec, tmp_path, number, code):
    run = tmp_path / "run"
    process = start(loaded, spec, run)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    step = int(re.search(r"interrupted at step ([\d,]+)", out)[1].replace(",", ""))
    assert f"go on with: mapsto train --resume {run}" in out
    assert checkpoint_paths(run / "checkpoints")[-1].name == f"step-{step:08d}"
    said = mapsto("train", "--resume", run, f"steps={step + 3}", "--quiet")
    assert said.code == 0, said.err
    whole = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert whole[-1] == step + 3


def test_a_second_one_ends_it_at_once_and_says_what_is_saved(mapsto, trained, monkeypatch):
    def interrupted(run, **_):
        raise KeyboardInterrupt("a second SIGINT")

    monkeypatch.setattr("mapsto.engine.run.Run.fit", interrupted)
    said = mapsto("train", "--resume", trained, "epochs=4")
    assert said.code == 130
    assert f"ended at once; up to the last checkpoint it is saved. Go on with: mapsto train --resume {trained}" in said.err


def test_quiet_says_how_to_go_on_too(loaded, spec, tmp_path):
    process = start(loaded, spec, tmp_path / "run", "--quiet")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == f"report: {tmp_path / 'run' / 'report.html'}\n"
    assert f"interrupted: SIGINT. Go on with: mapsto train --resume {tmp_path / 'run'}" in err


def test_a_reader_that_goes_away_does_not_end_the_run(spec, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "mapsto", "train", str(spec), "epochs=4", "log_every=1", "--run", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(120)
    assert "Traceback" not in err
    assert checkpoint_paths(run / "checkpoints")[-1].name == "step-00000012"
