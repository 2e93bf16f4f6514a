"""The survey: what the data of a run are like, from its first batches and a sample that is read for a bounded time.

It is kept in the run folder (`data.json`), so that a doctor needs neither the data nor the recipe. Nothing is done a step: the
sample is read before the first one, the first batches are looked at as they go by, and one batch or a few of an evaluation when
it comes. What goes wrong here spoils no run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...data.source import Indices
from ...data.stream import PaddingBatch, size
from ..folder import RunFolder
from ..streams import preserve_rng
from ..wing import Program, Wing
from .fields import Array, Field, array_of
from .records import Gathered, drawn, numbers_of, read
from .summary import Repeated, SetSummary, SurveySummary, survey_of
from .targets import classes_of, labels_of, labels_within

log = logging.getLogger("mapsto")
clock = time.perf_counter
SECONDS = {"train": 0.25, "valid": 0.1, "test": 0.1}
"""What reading records of a set may take: enough for 50,000 small ones, so that those of most tables are read whole."""
BATCHES, RECORDS, VALUES = 8, 2048, 1 << 21
"""First batches that are looked at, and the records and values in them: at most so many of each."""
EVALUATED = 16
"""Records that are evaluated twice."""
SPREAD = 4
"""Batches of an evaluated set, spread over it: its records often stand sorted by class."""


class Survey:
    """Gathers what the data of one run are like and keeps it in its folder. Only the rank that leads has one."""

    def __init__(self, folder: RunFolder, program: Program, wing: Wing, seed: int) -> None:
        self.folder, self.program, self.wing, self.seed = folder, program, wing, seed
        self.summary: SurveySummary | None = None
        self._fields: dict[str, Field] = {}
        self._cached: dict[str, list[Any]] = {}
        self._looking = self._new = False
        self._order: Callable[[int], Indices] | None = None

    # -- before the first step ---------------------------------------------------------------------------------------
    def begin(self, readers: Mapping[str, Any]) -> None:
        """Look at the records of each set, as its source gives them; then at the first batches."""
        with self._guarded():
            asked = getattr(self.program, "survey", None)  # a wing need not have it
            about = dict(asked()) if asked is not None else {}
            inputs, target = about.pop("inputs", None), about.pop("target", None)
            stated = inputs is not None and target is not None
            self.summary = SurveySummary(
                inputs=list(inputs or ["input"]), target=target or "target", stated=stated, sets={}, **about
            )
            self._order = getattr(readers["train"], "indices", None)
            self._looking = self._new = True
            self._records(readers)

    def go_on(self) -> None:
        """Take up what an earlier session left in the folder."""
        self.summary = survey_of(self.folder.survey())

    def _records(self, readers: Mapping[str, Any]) -> None:
        """Records of some sets, and those that they share with the training set, which is read last: first of all at the
        places that were read of the others, for a set that is the same is found so however little is read."""
        gathered: dict[str, Gathered] = {}
        early = np.empty(0, np.int64)
        for name in sorted(readers, key="train".__eq__):
            reader = readers[name]
            if name != "train" and hasattr(reader, "sequential"):
                reader = reader.sequential()
            self._set(name, records=int(reader.records))
            if all(hasattr(reader, part) for part in ("source", "order", "indices", "batch_size")):
                wanted = drawn(numbers_of(reader, self.seed), self.seed, early if name == "train" else None)
                gathered[name] = self._read(name, reader, wanted)
                early = np.union1d(early, np.asarray(gathered[name].numbers, np.int64))
        if (train := gathered.pop("train", None)) is not None:
            for name, other in gathered.items():
                self._set(name, overlap=other.overlap(train, int(readers["train"].records)))
            self._set("train", repeats=train.repeats())

    def _read(self, name: str, reader: Any, wanted: Indices) -> Gathered:
        assert self.summary is not None
        gathered, fields, target = Gathered(), dict[str, Field](), self.summary.target
        labels: list[Array] = []
        kept: dict[str, list[Any]] = {}
        for numbers, batch in read(reader.source, wanted, SECONDS.get(name, SECONDS["valid"])):
            inputs, wanted_ = self._inputs(batch), batch.get(target)
            gathered.add(numbers, list(inputs.values()), wanted_)
            if (found := labels_of(wanted_)) is not None:
                labels.append(found)
            if len(gathered.numbers) <= RECORDS + len(numbers):
                _add(fields, inputs, numbers)
                for field, value in {**inputs, target: wanted_}.items():
                    if isinstance(value, (list, tuple)) or field == target:
                        kept.setdefault(field, []).extend(() if value is None else value)
        every = np.concatenate(labels) if labels and sum(map(len, labels)) == len(gathered.numbers) else None
        blocks = self._blocks(reader, gathered, every) if name == "train" and every is not None else []
        self._set(
            name,
            read=len(gathered.numbers),
            classes=classes_of(every, blocks) if every is not None else None,
            raw={field: held.summary() for field, held in fields.items()},
        )
        if (wanted_ := kept.pop(target, None)) and kept:
            self._set(name, labels=labels_within({f: v for f, v in kept.items() if len(v) == len(wanted_)}, wanted_))
        return gathered

    @staticmethod
    def _blocks(reader: Any, gathered: Gathered, labels: Array) -> list[Array]:
        """The labels of some batches as training takes them, as far as they were read."""
        at = {number: i for i, number in enumerate(gathered.numbers)}
        found = []
        for position in sorted({int(i * reader.batches_per_epoch / 32) for i in range(32)}):
            rows = [at[number] for number in reader.indices(position).tolist() if number in at]
            found.append(labels[np.asarray(rows, np.int64)])
        return found

    # -- the first batches -------------------------------------------------------------------------------------------
    def first(self, stream: Iterable[tuple[int, Any]]) -> Iterable[tuple[int, Any]]:
        """The stream; its first batches are looked at as they go by, and the others go by untouched."""
        return itertools.chain(self._seen(iter(stream)), stream) if self._looking else stream

    def _seen(self, stream: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        for position, batch in itertools.islice(stream, BATCHES):
            if self._looking:
                with self._guarded():
                    self._look(position, batch)
            yield position, batch
            if max((field.records for field in self._fields.values()), default=0) >= RECORDS:
                break
        self._looking = False

    def _look(self, position: int, batch: Any) -> None:
        assert self.summary is not None
        target = self.summary.target
        for part in batch if isinstance(batch, list) else [batch]:
            if isinstance(part, PaddingBatch) or not size(part):
                continue
            fields = {**self._inputs(part), **({target: part[target]} if target in part else {})}
            numbers = self._order(position) if self._order is not None else np.arange(size(part))
            _add(self._fields, fields, numbers if len(numbers) == size(part) else np.full(size(part), -1))
            for field, value in fields.items():
                self._cached.setdefault(field, []).append(value)
        self._set("train", batches=self.summary.sets["train"].batches + 1)
        self._new = True

    def _summarise(self) -> None:
        """What the first batches tell, taken together."""
        held, self._cached = _joined(self._cached), {}
        if self.summary is None or not self._fields:
            return
        target = held.pop(self.summary.target, None)
        found = labels_within(held, target) if target is not None else []
        summary = {name: field.summary() for name, field in self._fields.items()}
        self._set("train", fields=summary, labels=[*self.summary.sets["train"].labels, *found])
        self._fields = {}

    # -- evaluations -------------------------------------------------------------------------------------------------
    def evaluated(self, name: str, reader: Any, train: Any = None, *, alone: bool = False) -> None:
        """Look at some batches of a set that is evaluated, once in a run. train: the training reader, where the set's records
        are still to be compared with its own; alone: evaluate one batch twice too, in this one process."""
        summary = self.summary
        if summary is None or (name in summary.sets and summary.sets[name].fields) or not hasattr(reader, "batch"):
            return
        with self._guarded():
            if train is not None:
                self._records({name: reader, "train": train})
            self._evaluated(name, reader, alone)
            self._new = True
        self.keep()

    def _evaluated(self, name: str, reader: Any, alone: bool) -> None:
        every, fields, began, first, looked = reader.batches_per_epoch, dict[str, Field](), clock(), None, 0
        for position in sorted({int(i * every / SPREAD) for i in range(SPREAD)}):
            batch = reader.batch(position)
            first = batch if first is None else first
            numbers = reader.indices(position) if hasattr(reader, "indices") else np.arange(size(batch))
            _add(fields, self._inputs(batch), numbers if len(numbers) == size(batch) else np.full(size(batch), -1))
            looked += 1
            if clock() - began > SECONDS["valid"]:
                break
        self._set(name, fields={field: found.summary() for field, found in fields.items()}, batches=looked)
        if alone and first is not None and self.summary is not None and self.summary.evaluation is None:
            if "compile" not in self.program.summary().get("middleware", ()):  # which would compile for another size
                first = {field: value[:EVALUATED] for field, value in first.items()}
            once, twice = (_number(self.program.evaluate([first] * times)["loss"]) for times in (1, 2))
            modes = dict(getattr(self.program, "modes", {}))
            self.summary = dataclasses.replace(self.summary, evaluation=Repeated(once=once, twice=twice, **modes))

    # -- keeping -----------------------------------------------------------------------------------------------------
    def keep(self, *, end: bool = False) -> None:
        """Write down what is new, once the first batches have gone by; at the end of the run in any case."""
        if self.summary is None or not self._new or (self._looking and not end):
            return
        self._looking = self._new = False
        with self._guarded():
            self._summarise()
            self.folder.write_survey(dataclasses.asdict(self.summary))

    # -- parts -------------------------------------------------------------------------------------------------------
    def _inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that the model is given; where the task does not tell, all but the target."""
        assert self.summary is not None
        named = {name: batch[name] for name in self.summary.inputs if name in batch}
        return named or {name: value for name, value in batch.items() if name != self.summary.target}

    def _set(self, name: str, **changes: Any) -> None:
        assert self.summary is not None
        before = self.summary.sets.get(name) or SetSummary(records=changes.get("records", 0))
        self.summary = dataclasses.replace(
            self.summary, sets={**self.summary.sets, name: dataclasses.replace(before, **changes)}
        )

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Within it what is drawn leaves no trace in the run, the time is counted, and a fault is no fault of the run."""
        began, problem = clock(), ""
        try:
            with preserve_rng(self.wing):
                yield
        except Exception as error:  # the run itself meets what is wrong with its data; a doctor tells the rest
            problem = f"{type(error).__name__}: {error}"[:200]
            log.debug("the data were not looked at in full", exc_info=error)
        if (summary := self.summary) is not None:
            problems = [*summary.problems, *([problem] if problem and problem not in summary.problems else [])]
            self.summary = dataclasses.replace(summary, seconds=round(summary.seconds + clock() - began, 4), problems=problems)


def _add(fields: dict[str, Field], values: Mapping[str, Any], numbers: Indices) -> None:
    for name, value in values.items():
        if len(value):
            fields.setdefault(name, Field(value)).add(value, numbers)


def _joined(held: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The fields of some batches laid together, where their records are of one shape and not too many."""
    found: dict[str, Any] = {}
    for field, parts in held.items():
        arrays = [array for part in parts if (array := array_of(part)) is not None]
        alike = len({array.shape[1:] for array in arrays}) == 1 and len(arrays) == len(parts)
        if alike and sum(array.size for array in arrays) <= VALUES:
            found[field] = np.concatenate(arrays)
    return found


def _number(value: Any) -> float | None:
    found = float(value)
    return found if np.isfinite(found) else None


__all__ = ["Survey", "SurveySummary", "survey_of"]
