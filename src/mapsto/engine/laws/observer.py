"""Laws of observers, event -> nothing: the run is the same with and without, nothing is left changed, nothing is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ...core.errors import MapstoError, MissingExtra
from ...core.garbage import only_new_garbage
from ...core.law_wings import LawWing, law_wing
from ...core.laws import Laws, Trial
from ...core.parts import build
from ...core.values import use
from ...core.wings import DEFAULT
from ..events import Event
from ..run import Result, Run
from .runs import STEPS, differing, first_difference, folder, leaves, saved, usual

laws = Laws("observer")
FEW, MANY, BUDGET = 8, 24, 1 << 20
"""Events between which memory is compared, and the bytes that it may grow by (each event offers 512 KiB of weights)."""


def observer_of(trial: Trial, program: Any) -> Any:
    """A fresh observer; one that closes over the program is made by `with_program=lambda program: arguments`."""
    subject, more = trial.subject, trial.example.more
    if subject.make is not None:
        return subject.make()
    if trial.example.args == {} and not isinstance(subject.target, type) and "with_program" not in more:
        return subject.target
    args = dict(trial.example.args) | (more["with_program"](program) if "with_program" in more else {})
    try:
        return build(use(subject.target, **args), "observer", path=subject.label)
    except MissingExtra as error:
        trial.skip(f"it needs a library that is not installed: {error}")
    except MapstoError as error:
        name = subject.label.rpartition(":")[2].rpartition("/")[2].rpartition(".")[2]
        trial.undecided(
            f"it could not be built ({error}); write beside it\n  mapsto.example({name}, args={{...}})  "
            "# or with_program=lambda program: {...}, where it closes over the program"
        )


class Watched:
    """An observer, and what its calls changed: the first event and where.

    until: a step at whose checkpoint it goes deaf, so that it stays as that checkpoint has saved it; beside: another observer
    that is told the same events.
    """

    def __init__(
        self, observer: Any, program: Any, *, failing: str = "nothing", extra: int = 0, until: int = 0, beside: Any = None
    ) -> None:
        self.observer, self.program, self.failing, self.extra = observer, program, failing, extra
        self.until, self.beside, self.step, self.deaf = until, beside, 0, False
        self.wing = law_wing(DEFAULT) or LawWing()
        self.changed: list[tuple[Event, str]] = []
        self.raised: list[tuple[Event, Exception]] = []
        self.memory: list[tuple[int, int]] = []
        self.calls = 0

    def __call__(self, event: Event) -> None:
        self.step = event.step
        if self.deaf:
            return
        self.calls += 1
        offered = event
        if self.extra or self.failing == "weights()":
            offered = dataclasses.replace(event, run=dataclasses.replace(event.run, weights=self._weights(event)))
        with self.wing.modes_kept():  # what it left is noted, and nobody else's business
            before = self._look()
            try:
                with self.wing.failing(self.program) if self.failing == "the model" else contextlib.nullcontext():
                    self.observer(offered)
                    if self.beside is not None:
                        self.beside(offered)
            except Exception as error:  # noqa: BLE001  # what it raises is looked at by the law
                self.raised.append((event, error))
            if (path := differing(self._look(), before)) is not None:
                self.changed.append((event, path))
        if self.extra and (self.calls == FEW or event.name == "end"):
            gc.collect()
            self.memory.append((self.wing.graphs(), tracemalloc.get_traced_memory()[0]))

    def __getattr__(self, name: str) -> Any:
        if name in ("state_dict", "load_state_dict", "close"):
            found = getattr(self.observer, name)
            self.deaf = self.deaf or (name == "state_dict" and 0 < self.until <= self.step)
            return found
        raise AttributeError(name)

    def _look(self) -> dict[str, str]:
        """Digests of all state, and the settings that a mode change would leave."""
        return leaves({"state": self.program.state_tree(), **self.wing.modes(self.program)})

    def _weights(self, event: Event) -> Any:
        def weights() -> dict[str, Any]:
            if self.failing == "weights()":
                raise RuntimeError("weights cannot be had, as the law wants it")
            return {**event.run.weights(), "law": np.zeros(self.extra)}

        return weights


def _observed(trial: Trial, where: Path, *, resume: bool = False, **options: Any) -> tuple[Run, Result | None, Watched]:
    """A run with the observer, watched. Where the run breaks after the observer changed something, there is no result."""
    changes = options.pop("changes", {})
    run = Run(usual(trial.seed, **changes), where)
    watched = Watched(observer_of(trial, run.program), run.program, **options)
    run.observers = (watched,)
    try:
        return run, run.fit(resume=resume), watched
    except Exception:
        if not watched.changed:
            raise
        return run, None, watched


def _bare(trial: Trial, where: Path, **changes: Any) -> Run:
    run = Run(usual(trial.seed, **changes), where)
    run.fit()
    return run


# -- the trajectory ----------------------------------------------------------------------------------------------------
@laws.law(
    "B1",
    "trajectory",
    priority=0,
    seconds=90,
    why="Who looks must not change what is looked at: a run that is logged in more detail would train to something else.",
    satisfy="Use the event alone: event.metrics, event.run.weights() (copies), generators of your own.",
    catches=("fastai#3512", "Megatron-Bridge#5255", "pytorch-lightning#20204"),
)
def trajectory(trial: Trial) -> None:
    """With it and without it every checkpoint holds the same bits: weights, optimizer, averages, schedule, random streams."""
    with folder() as place:
        run, result, watched = _observed(trial, place / "with")
        bare = _bare(trial, place / "without")
        trial.demand(watched.calls > 0, "it was never called")
        if result is None:
            _blame(trial, watched, 0, "the run itself, which broke,")
        for step in range(1, result.steps + 1):
            with trial.case(step=step):
                path = first_difference(saved(run, step), saved(bare, step))
                if path is not None:
                    _blame(trial, watched, step, path)
                trial.exercised("checkpoints")
        trial.demand(result.steps == STEPS or result.reason == "stopped", f"the run ended at step {result.steps}: {result.why}")
        other = _bare(_another_seed(trial), place / "other")
        trial.control("another seed differs", first_difference(saved(other, 1), saved(bare, 1)) is not None)
    trial.exercised("events", watched.calls)


def _another_seed(trial: Trial) -> Trial:
    """The same trial with another seed."""
    return Trial(trial.subject, trial.law, seed=trial.seed + 1)


def _blame(trial: Trial, watched: Watched, step: int, path: str) -> NoReturn:
    first = watched.changed[0] if watched.changed else None
    where = {"event": first[0].name, "step": first[0].step, "changed": first[1]} if first else {"step": step, "tensor": path}
    said = f"{path} differs from the run without it"
    trial.fail(
        said + (f"; the event {first[0].name!r} of step {first[0].step} changed {first[1]}" if first else ""),
        first=where,
        cause="it changes the program's state"
        if first
        else "it draws from a generator, or changes a setting, that a step uses",
    )


@laws.law(
    "B2",
    "restores",
    priority=0,
    seconds=120,
    why="A hook that leaves the model in evaluation mode trains on without dropout; one that fails half way leaves more.",
    satisfy="Put modes, weights and gradient settings back in `finally`, or use program.evaluating(), which does.",
    catches=("pytorch-pfn-extras#688", "schnetpack#785"),
)
def restores(trial: Trial) -> None:
    """After each event state, modes and gradient settings are as before, also where the model or weights() fails within."""
    for failing in ("nothing", "the model", "weights()"):
        with folder() as place, trial.case(fails_within=failing):
            _, _, watched = _observed(trial, place / "run", failing=failing)
            if watched.changed:
                event, path = watched.changed[0]
                trial.fail(
                    f"the event {event.name!r} of step {event.step} changed {path} and did not put it back",
                    first={"event": event.name, "step": event.step, "changed": path},
                    cause="it is not put back where an exception passes" if watched.raised else "it is not put back",
                )
            trial.exercised("events", watched.calls)
    tree = watched.program.state_tree()
    trial.control("a change of the state would be seen", first_difference({**tree, "step": -1}, tree) is not None)


@laws.law(
    "B3",
    "memory",
    priority=1,
    tolerance="T4",
    seconds=90,
    why="One tensor that is kept with its graph keeps a step's activations; after a few hundred logs the memory is full.",
    satisfy="Keep floats (event.metrics are), not tensors; write weights to a file and let go of them.",
    catches=("pytorch-pfn-extras#49", "a history of weights"),
)
def memory(trial: Trial) -> None:
    """Between 8 and 24 events no tensor with a graph more is held, and memory grows by less than 1 MiB."""
    changes = {"steps": MANY, "evaluate_every": MANY, "checkpoint": {"every": MANY, "keep": None, "best": 0}}
    with folder() as place, only_new_garbage():
        tracemalloc.start()
        try:
            _, _, watched = _observed(trial, place / "run", extra=1 << 16, changes=changes)
        finally:
            tracemalloc.stop()
    if len(watched.memory) < 2 or watched.calls < MANY // 2:
        trial.skip("it ends the run before memory could grow")
    (held, bytes_), (held_after, bytes_after) = watched.memory
    with trial.case(events=watched.calls):
        trial.demand(
            held_after <= held + 2,
            f"{held_after - held} more tensors with a graph are held after step {MANY} than after {FEW}",
            measured=held_after - held,
            allowed=2,
            cause="a loss or output is kept with its graph",
        )
        grown = bytes_after - bytes_
        trial.demand(
            grown < BUDGET,
            f"memory grew by {grown / 2**20:.1f} MiB between event {FEW} and the end",
            measured=grown,
            allowed=BUDGET,
            cause="weights are kept at each event",
        )


@laws.law(
    "B4",
    "lifecycle",
    priority=1,
    seconds=120,
    why="Observers live through several fits, resumes and closes; one that fails at it is detached, and its record has a hole.",
    satisfy="Open what you need at the first event, let close() be called at any time, keep plain data in state_dict().",
    catches=("a writer that is closed twice", "a counter that starts again after a resume"),
)
def lifecycle(trial: Trial) -> None:
    """No event makes it raise; it serves two fits, closes at any time and twice, and its state goes on after a resume."""
    with folder() as place:
        run = Run(usual(trial.seed), place / "first")
        made = observer_of(trial, run.program)
        for number in range(2):
            run = Run(usual(trial.seed), place / f"fit {number}")
            run.observers = (made,)
            result = run.fit()
            trial.demand(
                not result.detached, f"it raised in fit {number + 1}: {', '.join(result.detached.values())}", cause="it raised"
            )
        for when in ("before any event", "twice"):
            with trial.case(closed=when), trial.component(f"close() {when}"):
                fresh = observer_of(trial, run.program) if when == "before any event" else made
                if hasattr(fresh, "close"):
                    fresh.close()
                    fresh.close()
        _resumed(trial, place)
    trial.exercised("fits", 2)


def _resumed(trial: Trial, place: Path) -> None:
    """Its state after an interruption and a resume is that of one that lived through both, and was told the same events.

    A run without an interruption is no measure: it has one `start` and one `end`, which an observer may well keep.
    """
    if not hasattr(observer_of(trial, Run(usual(trial.seed), place / "probe").program), "state_dict"):
        return
    _, _, before = _observed(trial, place / "cut", changes={"steps": 3}, until=3)
    _, _, after = _observed(trial, place / "cut", resume=True, beside=before.observer)
    _, _, other = _observed(trial, place / "again", changes={"steps": 3}, until=3)
    _observed(trial, place / "again", resume=True, beside=other.observer)
    with trial.component("state_dict"):
        lives = (before.observer, after.observer, other.observer)
        want, got, again = (json.dumps(o.state_dict(), sort_keys=True, default=str) for o in lives)
    with trial.case(saved_at=3, steps=STEPS):
        trial.demand(
            _alike(leaves(_plain(got)), leaves(_plain(want)), leaves(_plain(again))),
            "its state at the end of a resumed run is another one",
            measured=got[:160],
            allowed=want[:160],
            cause="it starts afresh, or load_state_dict leaves something out",
        )


def _alike(got: dict[str, str], want: dict[str, str], again: dict[str, str]) -> bool:
    """Whether two states agree where another life of the same events has the same: time and memory are measured anew."""
    told = {path: value for path, value in want.items() if again.get(path) == value}
    measured = want.keys() - told.keys()
    return {path: value for path, value in got.items() if path not in measured} == told


def _plain(text: str) -> Any:
    """A state without what a clock tells."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: kept(v) for k, v in value.items() if "time" not in k and "second" not in k}
        if isinstance(value, list):
            return [kept(v) for v in value]
        return None if isinstance(value, float) else value

    return kept(json.loads(text))
