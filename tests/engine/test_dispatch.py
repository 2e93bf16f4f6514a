"""Observers watch: whatever they do, the weights are bitwise those of a run without them."""

from __future__ import annotations

import random

import numpy as np
import numpy_wing
import pytest
import runs
from runs import fit, numpy_spec, trajectory

from mapsto.core.errors import SpecError
from mapsto.engine.run import Run


class Draws:
    """Draws from every global stream, at every chance it gets."""

    def __init__(self):
        self.closed = 0

    @staticmethod
    def draw():
        random.seed(7)
        np.random.seed(7)
        numpy_wing.GLOBAL["stream"] += 1

    def __call__(self, event):
        self.draw()
        for weight in event.run.weights().values():
            weight[...] = 0  # copies

    def state_dict(self):
        self.draw()
        return {"n": 1}

    def close(self):
        self.draw()
        self.closed += 1


class Global(runs.Blobs):
    """A source that (badly) draws from the global streams, so that their state decides the trajectory."""

    def __getitem__(self, indices):
        found = super().__getitem__(indices)
        found["input"] = found["input"] + np.random.random() + random.random() + 0.01 * numpy_wing.GLOBAL["stream"]
        return found


def globally(**changes):
    data = {**numpy_spec().data, "train": {"source": Global(), "batch_size": 9}}
    return numpy_spec(data=data, **changes)


@pytest.fixture
def bare(tmp_path):
    fit(globally(), tmp_path / "bare")
    return trajectory(tmp_path / "bare", 13)


def test_an_observer_that_draws_changes_nothing(tmp_path, bare):
    drawing = Draws()
    fit(globally(), tmp_path / "run", observers=[drawing])
    assert trajectory(tmp_path / "run", 13) == bare
    assert drawing.closed == 1


def test_and_would_without_the_guard(tmp_path, bare, monkeypatch):
    """The control."""
    import contextlib

    monkeypatch.setattr("mapsto.engine.dispatch.preserve_rng", lambda wing: contextlib.nullcontext())
    fit(globally(), tmp_path / "run", observers=[Draws()])
    assert trajectory(tmp_path / "run", 13)["program.model.w1"] != bare["program.model.w1"]


@pytest.mark.parametrize("guarded", [True, False])
def test_an_evaluation_that_draws_changes_nothing_and_would_without_the_guard(tmp_path, monkeypatch, guarded):
    import contextlib

    monkeypatch.setattr(numpy_wing.Program, "observe", lambda self, metrics: None)
    if not guarded:
        monkeypatch.setattr("mapsto.engine.loop.preserve_rng", lambda wing: contextlib.nullcontext())
    for name, every in (("a", 5), ("b", 1)):
        numpy_wing.GLOBAL["stream"] = 0
        fit(globally(evaluate_every=every, checkpoint={"best": 0}), tmp_path / name)
    a, b = (trajectory(tmp_path / n, 13) for n in "ab")
    assert (a == b) is guarded


@pytest.mark.parametrize("at", ["start", "log", "evaluate", "epoch", "checkpoint", "end", "state_dict", "close"])
def test_one_that_raises_is_reported_once_and_the_run_goes_on_the_same(tmp_path, bare, at, caplog):
    class Breaks(Draws):
        calls = 0

        def __call__(self, event):
            super().__call__(event)
            self.fail(event.name)

        def fail(self, where):
            if where == at:
                self.calls += 1
                raise RuntimeError(f"broken at {where}")

        def state_dict(self):
            self.fail("state_dict")
            return {}

        def close(self):
            super().close()
            self.fail("close")

    Breaks.draw()
    numpy_wing.GLOBAL["stream"] = 0
    breaks, seen = Breaks(), []
    _, result = fit(globally(), tmp_path / "run", observers=[breaks, seen.append])
    assert trajectory(tmp_path / "run", 13) == bare
    assert result.reason == "finished"
    assert (breaks.calls, breaks.closed) == (1, 1)
    assert seen[-1].name == "end"
    reports = [r for r in caplog.records if "observer breaks raised" in r.message]
    assert len(reports) == 1
    assert "broken at" in str(reports[0].exc_info[1])
    if at not in ("end", "close"):
        assert seen[-1].detail["detached"]["breaks"].startswith(f"RuntimeError: broken at {at}")


def test_an_observer_s_state_that_no_file_can_hold_is_its_own_failure(tmp_path, caplog):
    class Odd:
        def __call__(self, event): ...

        def state_dict(self):
            return {"hook": len}

    assert fit(numpy_spec(), tmp_path / "run", observers=[Odd()])[1].reason == "finished"
    assert "observer odd raised at state_dict" in caplog.text
    assert runs.saved(tmp_path / "run", 13)["observers"] == {}


class Counts:
    """Counts events, and keeps the count."""

    def __init__(self):
        self.seen = []

    def __call__(self, event):
        self.seen.append((event.name, event.step))

    def state_dict(self):
        return {"seen": list(self.seen)}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_states_of_observers_are_kept_and_told_where_they_do_not_fit(tmp_path):
    stop = lambda event: event.run.ask_to_stop("now") if (event.name, event.step) == ("log", 8) else None  # noqa: E731
    fit(numpy_spec(), tmp_path / "run", observers=[Counts(), Counts(), stop])
    counts, told = Counts(), []
    Run.resume(tmp_path / "run", observers=[counts, told.append]).fit()
    assert counts.seen[:4] == [("start", 0), ("checkpoint", 3), ("log", 4), ("evaluate", 5)]
    assert counts.seen.count(("log", 8)) == 1
    notes = told[0].detail["resumed"]["notes"]
    assert notes == ["the state of observer counts.2 is left out: this run has none"]

    class Other(Counts):
        pass

    told.clear()
    Run.resume(tmp_path / "run", observers=[Other(), told.append]).fit()
    notes = told[0].detail["resumed"]["notes"]
    assert "observer other starts afresh: the checkpoint holds no state of it" in notes


def test_ask_to_stop_ends_after_the_step_with_a_checkpoint(tmp_path):
    for name, step in (("log", 4), ("evaluate", 5), ("epoch", 6), ("checkpoint", 3)):
        seen = []

        def stop(event, name=name, seen=seen):
            seen.append((event.name, event.step))
            if event.name == name:
                event.run.ask_to_stop("because")
                event.run.ask_to_stop("a second reason")

        _, result = fit(numpy_spec(), tmp_path / name, observers=[stop])
        assert (result.reason, result.why, result.steps) == ("stopped", "because", step)
        assert result.last.name == f"step-{step:08d}"
        assert seen[-2:] == [("checkpoint", step), ("end", step)]


def test_a_stop_asked_for_at_the_start_takes_no_step(tmp_path):
    _, result = fit(numpy_spec(), tmp_path / "run", observers=[lambda event: event.run.ask_to_stop("at once")])
    assert (result.reason, result.steps, result.last.name) == ("stopped", 0, "step-00000000")


def test_a_stop_asked_for_at_the_last_step_is_no_stop(tmp_path):
    stop = lambda event: event.run.ask_to_stop("late") if event.step == 13 else None  # noqa: E731
    assert fit(numpy_spec(), tmp_path / "run", observers=[stop])[1].reason == "finished"


def test_an_event_gives_no_way_to_change_the_run(tmp_path):
    def meddle(event):
        for act in (
            lambda: event.metrics.__setitem__("x", 1.0),
            lambda: event.detail.__setitem__("x", 1),
            lambda: event.run.summary.__setitem__("x", 1),
            lambda: setattr(event, "step", 3),
            lambda: setattr(event.run, "total_steps", 3),
        ):
            with pytest.raises((TypeError, AttributeError)):
                act()

    _, result = fit(numpy_spec(), tmp_path / "run", observers=[meddle])
    assert result.detached == {}


def test_observers_come_from_the_spec_by_name_class_and_function(tmp_path):
    seen = []
    spec = numpy_spec(observers=[{"use": "test_dispatch:noted"}, Counts, seen.append])
    _, result = fit(spec, tmp_path / "run")
    assert result.detached == {}
    assert len(seen) == 18
    assert NOTED[-1] == "end"
    for odd in (3.5, object()):
        with pytest.raises(SpecError, match=r"observers\.0: .* is (no observer|a float)"):
            fit(numpy_spec(), tmp_path / "odd", observers=[odd])


NOTED: list[str] = []


def noted(event):
    NOTED.append(event.name)
