"""Another length of a run changes what its parts made of the length: it is told before the first step, and asked for."""

from __future__ import annotations

import pytest
from runs import fit, trajectory
from torch import nn
from torch_runs import torch_spec

import mapsto
from mapsto.core.errors import SpecError
from mapsto.engine.run import Run
from mapsto.torch.rates import rates as ahead

KEPT = {"every": 1, "keep": None, "best": 0}


def spec(schedule, steps, **changes):
    return torch_spec(schedule=schedule, steps=steps, middleware=[], checkpoint=KEPT, **changes)


def rates(folder):
    """The rate that each step was made with, from the log of every step: the rate after it is that of the next."""
    events = Run.resume(folder).folder.records("log")
    return [event["metrics"]["train/lr"] for event in events]


ONE_CYCLE = {"use": "one_cycle", "max_lr": 0.1}
WARMUP = {"use": "warmup", "steps": 2}


@pytest.mark.parametrize("schedule", [ONE_CYCLE, WARMUP])
def test_a_longer_run_is_refused_with_what_it_does_to_the_rate_and_goes_on_when_it_is_said(tmp_path, schedule):
    fit(spec(schedule, 4, log_every=1), tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    said = (
        r"another length would change it: schedule was built for total_steps 4, and it is 8 now; the rate: at step 4 none "
        r"\(it is over\) before, 0\.0\d+ now; at the last step \S+ before \(step 4\), \S+ now \(step 8\)\. .*--schedule-changed"
    )
    with pytest.raises(SpecError, match=said):
        Run.resume(tmp_path / "run", "steps=8").fit()
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    told = []
    assert Run.resume(tmp_path / "run", "steps=8", schedule_changed=True, observers=[told.append]).fit().steps == 8
    assert told[0].detail["resumed"]["notes"][1].startswith("the schedule was changed, as was said: schedule was built for")
    fit(spec(schedule, 8, log_every=1), tmp_path / "whole")
    assert rates(tmp_path / "run")[4:] == rates(tmp_path / "whole")[4:]  # those of the new length, from here on
    told.clear()
    fit_again = Run.resume(tmp_path / "run", checkpoint=6, observers=[told.append]).fit()
    assert (fit_again.steps, told[0].detail["resumed"]["notes"]) == (8, [])  # it is now the length of the run


def test_the_momentum_that_a_schedule_moves_goes_on_as_the_rate_does(tmp_path):
    more = {"optimizer": {"use": "sgd", "lr": 0.1, "momentum": 0.9}}
    fit(spec(ONE_CYCLE, 4, **more), tmp_path / "run")
    run = Run.resume(tmp_path / "run", "steps=8", schedule_changed=True)
    run.fit()
    whole, _ = fit(spec(ONE_CYCLE, 8, **more), tmp_path / "whole")
    own, other = (r.program.optimizer.param_groups[0] for r in (run, whole))
    assert {k: v for k, v in own.items() if k != "params"} == {k: v for k, v in other.items() if k != "params"}


@pytest.mark.parametrize(
    "schedule",
    [None, {"use": "step", "step_size": 3}, {"use": "warmup", "steps": 2, "decay": "constant"}],
)
def test_a_schedule_that_does_not_depend_on_the_length_goes_on_bitwise(tmp_path, schedule):
    fit(spec(schedule, 4), tmp_path / "run")
    Run.resume(tmp_path / "run", "steps=8").fit()
    fit(spec(schedule, 8), tmp_path / "whole")
    assert trajectory(tmp_path / "run", 8, "torch") == trajectory(tmp_path / "whole", 8, "torch")


def test_a_shorter_run_is_another_schedule_too(tmp_path):
    stop = [lambda e: e.run.ask_to_stop("early") if e.name == "checkpoint" and e.step == 3 else None]
    fit(spec(WARMUP, 8), tmp_path / "run", observers=stop)
    with pytest.raises(SpecError, match=r"built for total_steps 8, and it is 5 now; the rate: at step 3 \S+ before, \S+ now"):
        Run.resume(tmp_path / "run", "steps=5").fit()
    assert Run.resume(tmp_path / "run").fit().steps == 8


def test_a_one_cycle_that_is_shorter_than_the_run_is_refused_before_it_begins(tmp_path):
    own = {**ONE_CYCLE, "total_steps": 6}
    with pytest.raises(SpecError, match=r"schedule: OneCycleLR is for 6 steps, and the run has 8: leave total_steps"):
        fit(spec(own, 8), tmp_path / "run")
    fit(spec(own, 6), tmp_path / "fits")
    with pytest.raises(SpecError, match="is for 6 steps, and the run has 7"):
        Run.resume(tmp_path / "fits", "steps=7", schedule_changed=True).fit()


@mapsto.middleware
class Fading:
    """A middleware of the length of the run."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps

    def update(self, inner):
        return inner

    def setup(self, builder):
        """Nothing: it is there to be asked."""


def test_any_part_that_took_the_length_counts(tmp_path):
    made = torch_spec(schedule=None, middleware=[{"use": "test_lengthened:Fading"}], steps=2, checkpoint=KEPT)
    fit(made, tmp_path / "run")
    with pytest.raises(SpecError, match=r"middleware\.fading was built for total_steps 2, and it is 3 now\. Go on all"):
        Run.resume(tmp_path / "run", "steps=3").fit()
    assert Run.resume(tmp_path / "run", "steps=3", schedule_changed=True).fit().steps == 3


def test_groups_with_rates_of_their_own_keep_them(tmp_path):
    groups = {"use": "param_groups", "rules": [{"match": ["4"], "lr": 0.2}]}
    made = [torch_spec(schedule=WARMUP, middleware=[groups], steps=n, checkpoint=KEPT) for n in (3, 6)]
    fit(made[0], tmp_path / "run")
    run = Run.resume(tmp_path / "run", "steps=6", schedule_changed=True)
    run.fit()
    whole, _ = fit(made[1], tmp_path / "whole")
    assert run.program.rates() == whole.program.rates()
    assert len(run.program.rates()) == 2


def test_the_wing_tells_rates_before_a_run():
    made = mapsto.Spec(
        model=nn.Linear(2, 2), data={"train": {"source": []}}, optimizer={"use": "sgd", "lr": 0.1}, schedule=WARMUP
    )
    assert ahead(made, {"total_steps": 4}, 4) == pytest.approx([0.05, 0.1, 0.1, 0.05])
