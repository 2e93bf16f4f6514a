"""The law of transforms that learn: from the records that they are given to learn from, and from no others."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ...core.laws import Laws, Trial
from ..fitted import learned_by, learns
from ..source import Batch, Indices, Source
from .contents import content, fields_of, records_of
from .examples import FITTED, Rows, apply, batches_for, transform_of

laws = Laws("transform")


@laws.law(
    "D22",
    "fitted",
    priority=0,
    why="Statistics of validation records in the input make every figure better than it will be; what is learned anew where a "
    "run is evaluated or resumed is another input than the weights were trained on.",
    satisfy="Read the source that fit is given and nothing else; return all of it as JSON data; map by `learned` alone, which "
    "calls never change.",
    catches=(
        "a mean over all the data, validation included",
        "a running mean that goes on while it evaluates",
        "a vocabulary that is kept beside what is saved",
        "statistics that are rounded where they are written down",
    ),
)
def fitted(trial: Trial) -> None:
    """What is learned of a part of the records depends on no record outside it and on no batch that is mapped later, and
    another instance that is given it maps alike.
    """
    transform = transform_of(trial)
    if not learns(transform):
        trial.skip("it learns nothing: it has no fit and learned")
    make = batches_for(trial, transform)
    batch = make(FITTED)
    inside, outside = np.arange(0, FITTED, 2), np.arange(1, FITTED, 2)
    found: list[dict[str, str]] = []
    for records in (outside, outside[:1]):
        source = _Part(records_of(batch, [*inside.tolist(), *records.tolist()]), len(inside))
        fresh = _fresh(transform)
        with trial.component("fitting it on a part of a source"):
            fresh.learned = learned_by(fresh, source)
        found.append(content({"learned": [str(fresh.learned)]}))
        beyond = sorted(i for i in source.read if i >= len(inside))
        trial.demand(
            not beyond,
            f"it read record {beyond[0] if beyond else 0}, which is not among those it was given to learn from",
            measured=len(beyond),
            allowed=0,
            cause="it reaches for the source behind its source",
        )
    trial.demand(found[0] == found[1], "other records beside the part that it is fitted on give another result of fit")
    before = str(fresh.learned)
    mine = records_of(batch, inside.tolist())
    first = content(fields_of(apply(fresh, mine, 0)))
    for _ in range(2):
        with trial.component("applying it to a record"):
            apply(fresh, records_of(batch, inside[::-1].tolist()), 0)
    trial.demand(
        str(fresh.learned) == before and content(fields_of(apply(fresh, mine, 0))) == first,
        "batches that it maps change what it learned",
        cause="it goes on learning where it is called, in evaluation too",
    )
    other = transform_of(trial)
    other.learned = copy.deepcopy(fresh.learned)
    trial.demand(
        content(fields_of(apply(other, mine, 0))) == first,
        "another instance that is given what it learned maps otherwise",
        cause="it keeps something that is not in what fit returns, or rounds it",
    )
    trial.control("fitting it on other records teaches it something else", _differs(transform, batch, before))


def _fresh(transform: Any) -> Any:
    made = copy.deepcopy(transform)
    made.learned = None
    return made


def _differs(transform: Any, batch: Batch, before: str) -> bool:
    """Whether any record alone, or fewer of them, teach something else."""
    for records in (list(range(FITTED)), [0], [1], [FITTED - 1], [0, 1]):
        try:
            if str(learned_by(_fresh(transform), Rows(records_of(batch, records)))) != before:
                return True
        except Exception:  # noqa: BLE001  # too few to learn from, which is another answer
            return True
    return False


class _Part(Source):
    """The first records of some, which stand whole under `source`; it keeps which of them were read."""

    def __init__(self, batch: Batch, count: int) -> None:
        self.source = Rows(batch)
        self.read = self.source.read
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: Indices) -> Batch:
        return self.source[np.arange(self._count, dtype=np.int64)[indices]]
