"""Readers as the laws drive them: mapsto's own, by positions, and anyone's that is iterated and tells its state."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

from ...core.errors import DataError
from ...core.laws import Trial
from ...core.parts import build
from ...core.values import use
from ..arrays import Arrays
from ..fitted import fit
from .contents import content, keys_of
from .examples import Numbered, numbered, own, parameters, required, title

SHARDS = (
    ("shard", "shards"),
    ("rank", "world_size"),
    ("rank", "num_replicas"),
    ("rank", "world"),
    ("shard_id", "num_shards"),
    ("shard_index", "num_shards"),
    ("shard_index", "shard_count"),
)
"""Names by which a reader is told which of how many shards it reads."""
SOURCES, OBJECTS, COUNTS = ("source", "data"), ("dataset", "items"), ("records", "n", "size", "length", "num_samples")
LIMIT = 29
"""Records to which a reader of stated arguments is limited, where it takes `limit`."""


class ByPosition:
    """A reader of positions (`batch`, `batches_per_epoch`): its state is one integer."""

    resumes = True

    def __init__(self, reader: Any, shard: int = 0, shards: int = 1) -> None:
        self.reader, self.shard, self.shards, self.position = reader, shard, shards, 0
        self._stream: Any = None

    def take(self, count: int) -> list[Any]:
        """The next `count` batches; where an epoch ends among them, those of the next one follow."""
        if not hasattr(self.reader, "stream"):
            first, self.position = self.position, self.position + count
            return [self.reader.batch(p, *self._which()) for p in range(first, first + count)]
        if self._stream is None:
            which = {} if self.shards == 1 else {"shard": self.shard, "shards": self.shards}
            self._stream = self.reader.stream(self.position, **which)
            self._stream.__enter__()
        found = []
        for position, batch in itertools.islice(self._stream, count):
            if position != self.position:
                raise DataError(f"its stream gave position {position} where {self.position} is due")
            found.append(batch)
            self.position += 1
        return found

    def epoch(self) -> list[Any]:
        """The batches of the next epoch."""
        return self.take(int(self.reader.batches_per_epoch))

    def state(self) -> Any:
        """The position of the next batch, which is all that a checkpoint would keep of the reader that is driven."""
        return self.position

    def restore(self, state: Any) -> None:
        """Go on from a position that `state` gave."""
        self.close()
        self.position = int(state)

    def close(self) -> None:
        """End the workers and the prefetching of the stream that is open."""
        held, self._stream = self._stream, None
        if held is not None:
            held.__exit__(None, None, None)

    def _which(self) -> tuple[int, ...]:
        return () if self.shards == 1 else (self.shard, self.shards)


class ByIteration:
    """A reader that is iterated once an epoch; state_dict and load_state_dict where it has them, set_epoch before an epoch."""

    def __init__(self, reader: Any) -> None:
        self.reader, self.number = reader, 0
        self.resumes = hasattr(reader, "state_dict") and hasattr(reader, "load_state_dict")
        self._iterator: Iterator[Any] | None = None

    def _begin(self) -> Iterator[Any]:
        for owner in (self.reader, getattr(self.reader, "sampler", None), getattr(self.reader, "dataset", None)):
            if owner is not None and hasattr(owner, "set_epoch"):
                owner.set_epoch(self.number)
                break
        return iter(self.reader)

    def take(self, count: int) -> list[Any]:
        """The next `count` batches; where an epoch ends among them, those of the next one follow."""
        found: list[Any] = []
        empty = 0
        while len(found) < count:
            if self._iterator is None:
                self._iterator = self._begin()
            before = len(found)
            found += itertools.islice(self._iterator, count - len(found))
            if len(found) < count:
                self._iterator, self.number = None, self.number + 1
                empty = empty + 1 if len(found) == before else 0
                if empty > 1:
                    raise DataError("two epochs in a row hold no batch")
        return found

    def epoch(self) -> list[Any]:
        """The batches up to the end of the epoch."""
        self._iterator = self._iterator or self._begin()
        found = list(self._iterator)
        self._iterator, self.number = None, self.number + 1
        return found

    def state(self) -> Any:
        """The state_dict that a checkpoint would keep of the reader that is driven."""
        return {"epoch": self.number, "reader": self.reader.state_dict()}

    def restore(self, state: Any) -> None:
        """Let a fresh reader go on from a state that `state` gave."""
        self.number, self._iterator = state["epoch"], None
        self.reader.load_state_dict(state["reader"])

    def close(self) -> None:
        """Let go of the iterator, which ends worker processes."""
        self._iterator = None


Driven = ByPosition | ByIteration


class Readers:
    """How readers of a subject are built, with what its signature and its author tell."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.subject, self.stated = trial, trial.subject, trial.example
        self.repeats = trial.has("repeats")
        self.takes = set(parameters(self.subject.target)) if self.subject.make is None else set()
        given = {**self.stated.args}
        self.sized = "records" in self.stated.more or (self.subject.make is None and bool(self._data(1, given)))
        self.workers = next((n for n in ("workers", "num_workers") if n in self.takes and n not in given), None)

    def takes_shards(self) -> bool:
        """Whether it is told its shard when it is built."""
        return "shards" in self.stated.more or any(a in self.takes and b in self.takes for a, b in SHARDS)

    def shuffles(self) -> bool:
        """Whether shuffling can be asked for."""
        return "shuffle" in self.takes and "shuffle" not in self.stated.args and "order" not in self.stated.args

    def reader(
        self, records: int = 13, *, shard: int = 0, shards: int = 1, seed: int | None = None, workers: int = 0, **wanted: Any
    ) -> Any:
        """A fresh reader over so many numbered records, where that can be asked; `wanted` are options that it may take."""
        trial, subject = self.trial, self.subject
        if subject.make is not None:
            return subject.make()
        args = dict(self.stated.args)
        args = {
            **args,
            **(self.stated.more["records"](records) if "records" in self.stated.more else self._data(records, args)),
        }
        args |= {n: v for n, v in wanted.items() if n in self.takes and n not in self.stated.args}
        if "batch_size" in self.takes and "batch_size" not in args:
            args["batch_size"] = 3
        if workers and self.workers:
            args[self.workers] = workers
        if shards > 1:
            args |= self._shard(shard, shards)
        if not self.sized and "limit" in self.takes and "limit" not in args:
            try:
                return self._build({**args, "limit": LIMIT}, seed)
            except DataError:
                pass
        if missing := required(subject.target) - args.keys() - {a for pair in SHARDS for a in pair}:
            trial.undecided(
                f"its arguments {', '.join(sorted(missing))} could not be guessed; write beside it\n"
                f"  mapsto.example({title(trial)}, args={{...}}, records=lambda n: {{'source': ...}})  # n records that differ"
            )
        with trial.building(args, guessed=not (own(subject.target) or self.stated.args.keys() >= args.keys())):
            return self._build(args, seed)

    def _build(self, args: dict[str, Any], seed: int | None) -> Any:
        target, injected = self.subject.target, {"seed": self.trial.seed if seed is None else seed}
        takes = self.takes
        injected |= {n: v for pair in SHARDS for n, v in zip(pair, (0, 1), strict=True) if n in takes and n in required(target)}
        if any(name not in takes for name in args):  # such as **options, which `build` accepts too
            return target(**args, **{n: v for n, v in injected.items() if n in takes and n not in args})
        made = fit(build(use(target, **args), "reader", path=self.subject.label, injected=injected))
        self.repeats = self.trial.has("repeats") or bool(getattr(getattr(made, "order", None), "repeats", False))
        return made

    def _data(self, records: int, args: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name in self.takes - args.keys():
            if name in SOURCES:
                made[name] = Arrays(**numbered(records))
            elif name in OBJECTS:
                made[name] = Numbered(records)
            elif name == "sources" and "weights" in self.takes:
                made |= {"sources": [Arrays(**numbered(records)), Arrays(**numbered(records // 2 + 1, 1))], "weights": [2, 1]}
        if not made:
            counted = required(self.subject.target) - args.keys()
            made = {n: records for n in COUNTS if n in counted}
        return made

    def _shard(self, shard: int, shards: int) -> dict[str, Any]:
        if "shards" in self.stated.more:
            return dict(self.stated.more["shards"](shard, shards))
        pair = next((p for p in SHARDS if p[0] in self.takes and p[1] in self.takes), None)
        return {pair[0]: shard, pair[1]: shards} if pair else {}

    def drive(self, reader: Any, shard: int = 0, shards: int = 1) -> Driven:
        """The reader as it is driven; where it is of no kind that is known, say what a reader owes."""
        if hasattr(reader, "batches_per_epoch") and (hasattr(reader, "batch") or hasattr(reader, "stream")):
            return ByPosition(reader, *((0, 1) if self.takes_shards() else (shard, shards)))
        if not hasattr(reader, "__iter__"):
            self.trial.undecided(
                f"a {type(reader).__name__} is no reader that could be driven: it has neither batch(position, shard, shards) "
                "and batches_per_epoch nor __iter__ (with state_dict and load_state_dict where it resumes)"
            )
        return ByIteration(reader)

    def driven(self, records: int = 13, *, shard: int = 0, shards: int = 1, **options: Any) -> Driven:
        """A reader that was built afresh, behind the interface by which laws read any reader."""
        return self.drive(self.reader(records, shard=shard, shards=shards, **options), shard, shards)

    def known_shards(self, driven: Driven) -> bool:
        """Whether shards can be asked of it: of one of positions always, by arguments of its batch or of its making."""
        return self.takes_shards() or isinstance(driven, ByPosition)


def kept_state(driven: Driven) -> Any:
    """The state, copied as a checkpoint would."""
    return copy.deepcopy(driven.state())


def comparable(trial: Trial, driven: Driven, batch: Any) -> Any:
    """A batch as it is compared: all of it where a reader is pure, its records' keys where it is not."""
    return content(batch) if isinstance(driven, ByPosition) else tuple(keys_of(batch, trial.example.more.get("id")))
