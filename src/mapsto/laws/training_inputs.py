"""What trainings are judged on: records that count how often they are read, and runs of the training on these."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.laws import Trial
from .compare import Array

LEAST = 12
"""How many records an author states at least: three batches of four, which uneven epochs are cut from."""
REQUIRED = ("seed", "batch_size", "steps")
BUDGET = 1e-3
"""How far accumulated weights may lie from those of the whole batch, as a part of what training on other records changes."""
EPS = float(np.finfo("float32").eps)

Weights = dict[str, Array]


class Records(Sequence[Mapping[str, Any]]):
    """Records by index, as a map-style data set is; `read` holds the index of each record that was taken, in order."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.records, self.read = list(records), list[int]()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        place = int(index)
        record = self.records[place]
        self.read.append(place % len(self.records))
        return dict(record)


def features(trial: Trial) -> frozenset[str]:
    """The keywords that the training takes: what it states that it can do. Undecided where one that all need is missing."""
    parameters = inspect.signature(trial.subject.target).parameters.values()
    named = frozenset(p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
    if missing := [name for name in REQUIRED if name not in named]:
        trial.undecided(f"a training is called as train(data, *, seed, batch_size, steps, ...), and this takes no {missing[0]}")
    return named


def needs(trial: Trial, *names: str) -> None:
    """The law does not concern a training that lacks one of the keywords."""
    taken = features(trial)
    for name in names:
        if name not in taken:
            trial.skip(f"it states no {name}: its function takes no such keyword")


def records(trial: Trial, count: int) -> Records:
    """The first so many of the records that the author stated. Undecided where there are too few."""
    stated = trial.example.more.get("records")
    if stated is None or len(stated) < LEAST:
        trial.undecided(
            f"at least {LEAST} records are wanted, each a dict of arrays; write beside it\n"
            "  mapsto.example(train, records=[{'input': ..., 'target': ...}, ...])"
        )
    return Records(stated[:count])


def run(trial: Trial, data: Records, *, doing: str = "training", **options: Any) -> Weights:
    """The weights after a run with those of the options that the training takes, as arrays of their own."""
    taken = features(trial)
    given = {"seed": trial.seed, "shuffle": True, "dropout": True, **options}
    optional = ("shuffle", "dropout")
    with trial.component(doing):
        found = trial.subject.target(data, **{n: v for n, v in given.items() if n in taken or n not in optional})
    if not isinstance(found, Mapping) or not found:
        trial.fail(f"{doing} gave a {type(found).__name__}, and a dict of arrays by name is wanted: its weights")
    return {str(name): np.array(value) for name, value in found.items()}


def apart(one: Weights, other: Weights) -> float:
    """The Euclidean distance of two sets of weights of the same shapes."""
    squares = (np.sum((other[n].astype("float64") - w.astype("float64")) ** 2) for n, w in one.items())
    return float(np.sqrt(sum(squares)))


def length(weights: Weights) -> float:
    """The Euclidean norm of all weights."""
    return apart(weights, {n: np.zeros_like(w) for n, w in weights.items()})


def near(trial: Trial, what: str, got: Weights, want: Weights, reach: float, *, cause: str | None = None) -> None:
    """Demand weights that lie within the budget: a part of `reach`, beside what float32 rounds off."""
    if {n: w.shape for n, w in got.items()} != {n: w.shape for n, w in want.items()}:
        trial.fail(f"{what}: there are other weights, or of other shapes")
    budget = float(trial.example.more.get("budget", BUDGET))
    error, allowed = apart(got, want), budget * reach + 8 * EPS * length(want)
    worst = max(want, key=lambda n: apart({n: got[n]}, {n: want[n]}))
    trial.demand(
        error <= allowed,
        f"{what} lie {error:.3g} from those that are due, where the updates themselves reach {reach:.3g}",
        measured=error,
        allowed=allowed,
        first={"tensor": worst},
        cause=cause,
    )
