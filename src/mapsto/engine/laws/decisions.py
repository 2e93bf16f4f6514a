"""Laws of what an observer decides: it stops where its rule says, whatever was interrupted, and whoever else watches."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.calls import called, defaults_of
from ...core.laws import Laws, Trial
from ...core.random import derive
from ..events import Event, RunView
from ..run import Run
from .observer import observer_of
from .runs import folder, usual

laws = Laws("observer")

EVALUATIONS = 14
METRICS = ("valid/loss", "train/loss", "valid/accuracy", "valid/mae", "loss")
"""Metrics that every event has, beside those that the observer's arguments name; all have one value."""


def sequences(seed: int) -> Iterator[tuple[str, list[float]]]:
    """Values of a metric, one an evaluation: such as rules of stopping get wrong."""
    rng = np.random.default_rng(derive(seed, "decisions"))
    nan = float("nan")
    yield "always better", [1 / (t + 1) for t in range(EVALUATIONS)]
    yield "always more", [float(t) for t in range(EVALUATIONS)]
    yield "all the same", [0.5] * EVALUATIONS
    yield "better, then worse", [*np.linspace(1, 0.5, 5).tolist(), *np.linspace(0.6, 0.9, EVALUATIONS - 5).tolist()]
    yield "better by very little", [1 - 1e-6 * t for t in range(EVALUATIONS)]
    yield "up and down", [0.5 + 0.1 * (-1) ** t - 0.02 * t for t in range(EVALUATIONS)]
    yield "not a number at first", [nan, nan, *np.linspace(1, 0.1, EVALUATIONS - 2).tolist()]
    yield "not a number in between", [1.0, 0.9, nan, 0.8, nan, nan, nan, 0.7, *[0.9] * (EVALUATIONS - 8)]
    yield "infinite", [1.0, float("inf"), 0.5, *[float("inf")] * (EVALUATIONS - 3)]
    yield "below zero", [-0.1 * t for t in range(EVALUATIONS // 2)] + [-0.1] * (EVALUATIONS - EVALUATIONS // 2)
    yield "equal to the best", [1.0, 0.5, *[0.5, 0.7] * ((EVALUATIONS - 2) // 2)]
    for number in range(4):
        yield f"chance {number}", rng.normal(size=EVALUATIONS).cumsum().tolist()


class Audience:
    """Sends events to an observer, and notes after which evaluations it asked to stop."""

    def __init__(self, observer: Any, run: Run, place: Path, names: Sequence[str]) -> None:
        self.observer, self.names, self.asked, self.evaluation = observer, names, list[int](), 0
        self.left = False
        self.view = RunView(
            folder=place,
            spec=run.spec,
            total_steps=2 * EVALUATIONS,
            steps_per_epoch=3,
            summary={},
            weights=run.program.weights,
            ask_to_stop=lambda _: self.asked.append(self.evaluation),
        )

    def tell(self, name: Any, step: int, value: float) -> None:
        """One event; all metrics have the value. One that raises at what is not finite refuses it, and is told no more, as a
        run tells an observer no more that raised.
        """
        if self.left:
            return
        metrics = {} if name == "start" else dict.fromkeys(self.names, value)
        try:
            self.observer(Event(name=name, step=step, epoch=step / 3, metrics=metrics, run=self.view))
        except Exception:
            if np.isfinite(value):
                raise
            self.left = True

    def see(self, values: Sequence[float], start: int = 0) -> None:
        """A log and an evaluation for each value, from one of them on."""
        self.tell("start", 2 * start, 0.0)
        for number in range(start, len(values)):
            self.evaluation = number
            self.tell("log", 2 * number + 1, values[number])
            self.tell("evaluate", 2 * number + 2, values[number])


@laws.law(
    "B5",
    "decisions",
    priority=0,
    seconds=90,
    tolerance="T0",
    why="A run that stops at another evaluation after a resume, or because another run was watched before, is another run.",
    satisfy="Keep all that a decision needs in state_dict, as plain data, in the instance and never in the class; say what it "
    "decides: mapsto.example(it, decides=lambda values, patience: the first evaluation after which it asks to stop, or None).",
    catches=("patience that starts again at a resume", "NaN taken for an improvement"),
)
def decisions(trial: Trial) -> None:
    """On the same evaluations it asks to stop at the same ones: told twice, interrupted anywhere with its state restored,
    beside another of its kind, and as the stated `decides` says.
    """
    decides, asked = trial.example.more.get("decides"), 0
    names = [*METRICS, *(v for v in trial.example.args.values() if isinstance(v, str) and v not in METRICS)]
    with folder() as place:
        run = Run(usual(trial.seed), place / "run")

        def fresh() -> Audience:
            return Audience(observer_of(trial, run.program), run, place, names)

        for name, values in sequences(trial.seed):
            with trial.case(values=name), trial.component("an evaluation"):
                whole = fresh()
                whole.see(values)
                asked += bool(whole.asked)
                if decides is not None:
                    _as_stated(trial, decides, values, whole.asked)
                again, other = fresh(), fresh()
                for number in range(len(values)):  # the other one sees what is worse, between the events of this one
                    again.see(values[: number + 1], number)
                    other.see([9.0] * (number + 1), number)
                _demand(
                    trial, again.asked, whole.asked, "beside another one, told in turns,", "state of the class, or of a module"
                )
                for at in range(1, len(values), 3):
                    with trial.case(interrupted_after=at):
                        _demand(trial, _resumed(trial, fresh, values, at), whole.asked, "after an interruption", None)
    if not asked and decides is None:
        trial.skip("it never asks to stop")
    trial.control(
        "some evaluations stop it and others do not", 0 < asked < len([*sequences(trial.seed)]) or decides is not None
    )


def _as_stated(trial: Trial, decides: Any, values: Sequence[float], asked: Sequence[int]) -> None:
    options = defaults_of(trial.subject.target, trial.example.args)
    due, found = called(decides, (list(values),), **options), asked[0] if asked else None
    trial.demand(
        found == due,
        f"it asks to stop {_after(found)}, and {_after(due)} is due",
        measured=str(found),
        allowed=str(due),
        first={"evaluation": min(x for x in (found, due, len(values)) if x is not None)},
    )


def _after(evaluation: int | None) -> str:
    return "never" if evaluation is None else f"after evaluation {evaluation + 1}"


def _demand(trial: Trial, got: Sequence[int], want: Sequence[int], when: str, cause: str | None) -> None:
    trial.demand(
        list(got) == list(want),
        f"{when} it asks to stop after evaluations {[n + 1 for n in got]}, and uninterrupted after {[n + 1 for n in want]}",
        measured=str(list(got)),
        allowed=str(list(want)),
        cause=cause or "what its decision needs is not in state_dict, or load_state_dict leaves it out",
    )


def _resumed(trial: Trial, fresh: Any, values: Sequence[float], at: int) -> list[int]:
    """After which evaluations it and its successor asked to stop, the successor having its saved state."""
    first, second = fresh(), fresh()
    first.see(values[:at])
    if hasattr(first.observer, "state_dict"):
        saved = first.observer.state_dict()
        try:
            saved = json.loads(json.dumps(saved))
        except (TypeError, ValueError):
            saved = copy.deepcopy(saved)
        second.observer.load_state_dict(saved)
    second.left = first.left
    second.see(values, at)
    trial.exercised("interruptions")
    return [*first.asked, *second.asked]
