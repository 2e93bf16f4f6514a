"""Going on with a torch run: every weight, optimizer state, average and statistic is bitwise what it would have been."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest
import torch
from runs import bits, fit, saved, trajectory
from tests import forked
from torch_runs import torch_spec

from mapsto.engine.checkpoints.checkpoint import Checkpoints
from mapsto.engine.run import Run

pytestmark = pytest.mark.bits

LAST = 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 12 steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    fit(torch_spec(), folder)
    return folder


def cut(whole, folder, step):
    """The run as it would be had it ended at `step`."""
    shutil.copytree(whole, folder)
    for path in (folder / "checkpoints").iterdir():
        if int(path.name[5:]) > step:
            shutil.rmtree(path)
    return folder


def same_to_the_end(folder, whole, step):
    for later in range(step, LAST + 1):
        assert trajectory(folder, later, "torch") == trajectory(whole, later, "torch"), later


@pytest.mark.parametrize("step", range(1, LAST))
def test_from_every_step(tmp_path, whole, step):
    folder = cut(whole, tmp_path / "run", step)
    Run.resume(folder).fit()
    same_to_the_end(folder, whole, step)


@pytest.mark.parametrize("step", [3, 8])
def test_from_a_stop_in_the_middle_of_an_epoch_in_a_new_process(loaded, tmp_path, whole, step):
    def stop(event):
        if event.step == step:
            event.run.ask_to_stop("now")

    _, first = fit(torch_spec(), tmp_path / "run", observers=[stop])
    assert first.steps == step
    code = """
        import sys; sys.path.insert(0, sys.argv[2])
        import torch, warnings
        warnings.simplefilter("error")
        torch.set_num_threads(int(sys.argv[3]))  # another number of threads sums in another order
        from mapsto.engine.run import Run
        print(Run.resume(sys.argv[1]).fit().steps)
    """
    here, threads = Path(__file__).parent, torch.get_num_threads()
    done = forked.run(loaded, "-c", textwrap.dedent(code), tmp_path / "run", here, threads)
    assert done.stdout == f"{LAST}\n", done.stderr
    same_to_the_end(tmp_path / "run", whole, step)


@pytest.mark.parametrize("part", ["model", "optimizer", "schedule", "ema", "statistics"])
def test_the_comparison_sees_each_part_that_is_not_restored(tmp_path, whole, monkeypatch, part):
    """The control."""
    folder = cut(whole, tmp_path / "run", 6)
    fresh = Run(torch_spec(), tmp_path / "fresh").program.state_tree()
    load = Checkpoints.load

    def forget(self, path, *_, **options):
        found = load(self, path, **options)
        tree = found.tree["program"]
        if part == "ema":
            tree["middleware"]["ema"] = fresh["middleware"]["ema"]
        elif part == "statistics":
            tree["model"]["1.running_mean"] = fresh["model"]["1.running_mean"]
        elif part == "optimizer":
            states = tree["optimizer"]["state"].items()
            tree["optimizer"]["state"] = {n: {k: torch.zeros_like(v) for k, v in s.items()} for n, s in states}
        elif part == "schedule":
            tree["schedule"]["last_epoch"] -= 1
        else:
            tree["model"] = fresh["model"]
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "load", forget)
        Run.resume(folder).fit()
    assert trajectory(folder, LAST, "torch") != trajectory(whole, LAST, "torch")


def test_observers_evaluation_and_logging_leave_no_trace(tmp_path, whole):
    import random

    import numpy as np

    def draws(event):
        torch.manual_seed(1)
        torch.rand(7)
        np.random.seed(1)
        random.seed(1)
        for weight in event.run.weights().values():
            weight[...] = 0
        if event.name == "log":
            raise RuntimeError("and it breaks")

    changed = torch_spec(log_every=1, evaluate_every=1, checkpoint={"every": LAST})
    fit(changed, tmp_path / "run", observers=[draws])
    a, b = (bits(saved(f, LAST, "torch")["program"], "torch") for f in (tmp_path / "run", whole))
    assert a == b


def test_best_and_last_weights_evaluate_as_they_did(tmp_path, whole):
    run = Run.resume(whole)
    assert run.evaluate("valid")["loss"] == pytest.approx(saved(whole, LAST, "torch")["latest"]["valid/loss"], abs=0)
    best = run.checkpoints.load(run.checkpoints.find("best"))
    assert run.evaluate("valid", checkpoint="best")["loss"] == best.manifest["best"]["entries"][0]["value"]
