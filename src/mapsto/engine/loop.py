"""The loop: steps, and what is due between them.

A step costs the reader's `next`, the program's `step`, two clock readings and one comparison with the next step at which
anything is due; a request to stop makes the next step due. At a step the order is log, evaluate, epoch, checkpoint: a
checkpoint holds all that its step brought about, so that going on from it repeats nothing and leaves nothing out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..core.errors import CheckpointError, DataError, DivergenceError, MapstoError
from ..core.spec import Spec, digest
from ..data.stream import PaddingBatch, size
from .checkpoints.checkpoint import Checkpoint, Checkpoints, restoring, step_of
from .checkpoints.saves import Best, Saves
from .dispatch import Dispatch
from .events import Event, EventName, RunView
from .folder import RunFolder
from .ranks import Ranks, alike, serve
from .stall import StallWatch
from .streams import capture, preserve_rng, put_back
from .survey import Survey
from .vitals import HealthProbe, cpu_clock
from .wing import Program, Wing

clock = time.perf_counter
log = logging.getLogger("mapsto")
KEYS = ("best", "latest", "observers", "position", "program", "random", "window")
"""What the tree of a checkpoint holds; `window` are the metrics since the last log, still to be averaged."""


@dataclass
class Loop:
    """One fit of a program on a reader, from where its state stands to `total` steps."""

    spec: Spec
    program: Program
    wing: Wing
    readers: Mapping[str, Any]
    folder: RunFolder
    checkpoints: Checkpoints
    dispatch: Dispatch
    versions: Mapping[str, str]
    identity: Mapping[str, Any]
    total: int
    ranks: Ranks
    data: Mapping[str, Any] = field(default_factory=dict)
    init: Mapping[str, Any] | None = None
    step: int = 0
    latest: dict[str, float] = field(default_factory=dict)
    saved: int = -1
    stop: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        plan = self.spec.checkpoint
        self.train = self.readers["train"]
        self.per_epoch: int = self.train.batches_per_epoch
        self.sets = self.spec.validation_sets
        self.every = {"log": self.spec.log_every, "epoch": self.per_epoch, "checkpoint": plan.every or self.per_epoch}
        if self.sets:
            self.every["evaluate"] = self.spec.evaluate_every or self.per_epoch
        self.best = Best(plan.best if self.sets else 0, plan.metric, plan.mode)
        self.saves = Saves(self.checkpoints, self.folder, plan, self._attend)
        self.due = 0
        self._window: list[Mapping[str, Any]] = []
        self._wall = self._waited = self._cpu = 0.0
        self._timed = 0
        self._vitals = HealthProbe(self.program, self.ranks)
        self.watch = StallWatch(self.folder.path, self.ranks.rank)
        self.survey = Survey(self.folder, self.program, self.wing, self.spec.seed) if self.ranks.leader else None
        self._epoch_began = clock()
        self._stop_requested: tuple[str, str] | None = None
        self._running = self._in_event = False
        self._call: Callable[[str], Any] = self._no_service if self.ranks.world > 1 else lambda _: self.program.weights()
        self.view = RunView(
            folder=self.folder.path,
            spec=self.spec,
            total_steps=self.total,
            steps_per_epoch=self.per_epoch,
            summary=MappingProxyType(dict(self.program.summary())),
            weights=lambda: self._call("weights"),
            ask_to_stop=lambda reason: self.request_stop("stopped", reason),
        )

    # -- requested from outside --------------------------------------------------------------------------------------
    def request_stop(self, reason: str, text: str) -> None:
        """End after the current step. Safe in a signal handler: the flag is set before the step is made due.

        Of several ranks the one that is called requests the attention of the others, so that all end after the same step.
        """
        if self.ranks.world > 1 and self._running and not self._in_event:  # a request of an event is shared after it
            self._stop_requested = self._stop_requested or (reason, text)
            self.program.request_attention()
            return
        if self.stop is None:
            self.stop = (reason, text)
        self.due = 0

    def _attend(self) -> None:
        """A checkpoint was written in the background: look at it after the current step, on all ranks."""
        if self.ranks.world > 1:
            if self.ranks.leader:
                self.program.request_attention()
            return
        self.due = 0

    def _receive(self) -> None:
        """Some rank requested attention: it was told to stop, or the leader's checkpoint is written."""
        self.program.request_attention(False)  # before requests are read: one that comes now is received after the next step
        received = self.ranks.gather((self._stop_requested, self.saves.ready))
        self.stop = self.stop or next((request for request, _ in received if request is not None), None)
        if received[0][1]:
            self._finish_checkpoint()

    def _first(self, request: tuple[str, str] | None) -> tuple[str, str] | None:
        """The request to stop of the first rank that has one, on every rank."""
        return next((made for made in self.ranks.gather(request) if made is not None), None)

    # -- running -----------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Steps until `total` or a request to stop; then the last evaluation and checkpoint."""
        if self.survey is not None and self.step < self.total:
            self.survey.begin(self.readers) if self.step == 0 else self.survey.go_on()
        self._schedule()
        if self.step < self.total and self.stop is None:
            self._steps()
        if self.stop is None and self.step < self.total:
            raise DataError(f"data.train: the reader ended at step {self.step} of {self.total}")
        if self.saved != self.step:
            self._save()
        self._finish_checkpoint()

    def _steps(self) -> None:
        take, keep, program, several = self.program.step, self._window.append, self.program, self.ranks.world > 1
        watch = self.watch
        self._running = True
        step, waited, got = self.step, 0.0, 0.0
        began = mark = clock()
        try:
            with self.train.stream(step, self.total, **program.reader_args) as stream:
                began = mark = clock()
                cpu = cpu_clock()
                watch.beat(step)
                for _, batch in self.survey.first(stream) if self.survey is not None else stream:
                    got = clock()
                    waited += got - mark
                    if got >= watch.due:
                        watch.beat(step)
                    keep(take(batch))
                    step += 1
                    if step >= self.due or (several and program.attention_requested):
                        self._wall += clock() - began
                        self._cpu += cpu_clock() - cpu
                        self._waited += waited
                        self._timed += step - self.step
                        self.step = step
                        if not self._between():
                            return
                        waited = 0.0
                        began, cpu = clock(), cpu_clock()
                    mark = clock()
        except DataError as error:
            if self.stop is None or got > mark:  # not while reading
                raise
            log.warning("the reader ended as the run did: %s", error)  # a signal to all processes of a job
        finally:
            self._running = False
        self.step = step

    def _between(self) -> bool:
        """All that is due at this step; whether to go on."""
        step, last = self.step, self.step == self.total
        if self.program.position != step:
            raise MapstoError(
                f"the program counted {self.program.position} steps where {step} batches were given: "
                "a middleware around `step` calls the inner step once a batch"
            )
        if self.ranks.world > 1:
            if self.program.attention_requested:
                self._receive()
        elif self.saves.ready:
            self._finish_checkpoint()
        if self._is_due("log") or last:
            self._log()
        if self._is_due("evaluate"):
            self._evaluate(scheduled=True)
        elif last and "evaluate" in self.every:
            self._evaluate(scheduled=False)
        if self._is_due("epoch"):
            self.emit("epoch", {"time/epoch": clock() - self._epoch_began})
            self._epoch_began = clock()
        if self._is_due("checkpoint") or last or self.stop is not None or self.best.is_new(step):
            self._save()
        self._schedule()
        return self.stop is None

    def _is_due(self, what: str) -> bool:
        return what in self.every and self.step % self.every[what] == 0

    def _schedule(self) -> None:
        self.due = min(self.total, *((self.step // every + 1) * every for every in self.every.values()))
        if self.stop is not None or (self.ranks.world == 1 and self.saves.ready):  # while the line above was computed
            self.due = 0

    # -- what is due -------------------------------------------------------------------------------------------------
    def _log(self) -> None:
        began = clock()
        found = {f"train/{k}": v for k, v in {**self.program.fetch(self._window), **self.program.rates()}.items()}
        first = self.program.fetch(self._window[:1]) if len(self._window) == self.step else {}
        self._window.clear()
        self._wall += clock() - began  # the device may still have been at work
        found["time/step"] = self._wall / self._timed
        found["time/data"] = self._waited / self._timed
        found["throughput/records"] = self._timed * self.train.records / self.per_epoch / max(self._wall, 1e-12)
        memory, detail = self._vitals(self._timed, self._wall, self._waited, self._cpu)
        if first:
            detail["first"] = first
        self._wall = self._waited = self._cpu = 0.0
        self._timed = 0
        self.emit("log", {**found, **memory}, detail)
        if self.survey is not None:
            self.survey.keep()

    def _evaluate(self, *, scheduled: bool) -> None:
        began = clock()
        with preserve_rng(self.wing):
            found = {
                f"{name}/{k}": v
                for name in self.sets
                for k, v in evaluate(self.program, self.readers[name], f"data.{name}", self.ranks).items()
            }
            if self.survey is not None:
                for name in self.sets:
                    self.survey.evaluated(name, whole(self.readers[name]), alone=self.ranks.world == 1)
        if scheduled:  # the evaluation at the end of a run is no step of a schedule: a longer run would not have had it
            self.program.observe(found)
        self.best.rank(self.step, found)
        self.emit("evaluate", {**found, "time/evaluate": clock() - began})

    def _save(self) -> None:
        self._finish_checkpoint()
        began = clock()
        tree = self._tree()
        self._verify(tree["program"])
        self.saves.begin(self.step, tree, self._about(), self.best, since=began)
        self.saved = self.step
        if not self.spec.checkpoint.asynchronous:
            self._finish_checkpoint()

    def _verify(self, tree: Any) -> None:
        """Before a checkpoint is written: ranks that hold the same must still hold the same."""
        if self.ranks.world == 1:
            return
        try:
            alike(self.ranks, self.wing.checksums(self.program, tree))
        except DivergenceError as error:
            last = f"; they did at step {self.saved}, which is saved" if self.saved > 0 else ""
            raise DivergenceError(f"step {self.step}: {error}{last}") from None

    def _finish_checkpoint(self) -> None:
        """Wait for the checkpoint that is being written, if one is, and tell of it."""
        if (done := self.saves.finish()) is not None:
            detail = {"path": str(done.path), "best": done.best, "seconds": done.took, "waited": done.waited}
            self.emit("checkpoint", {"time/checkpoint": done.stood}, detail, step=done.step)

    # -- state -------------------------------------------------------------------------------------------------------
    def _tree(self) -> dict[str, Any]:
        return {
            "program": self.program.state_tree(),
            "position": self.step,
            "window": list(self._window),
            "best": self.best.state(),
            "latest": dict(self.latest),
            "observers": self.dispatch.state(),
            "random": capture(),
        }

    def _about(self) -> dict[str, Any]:
        return {
            "versions": dict(self.versions),
            "epoch": self.step / self.per_epoch,
            "total_steps": self.total,
            "metrics": {k: v for k, v in self.latest.items() if v == v and abs(v) != float("inf")},
            "best": self.best.state(),
            "identity": self.identity,
            "identity_digest": digest(self.identity),
            "data": dict(self.data),
            **({"init": self.init} if self.init is not None else {}),
        }

    def restore(self, found: Checkpoint, *, reschedule: bool = False) -> dict[str, Any]:
        """Put a checkpoint back; what was restored, for the `start` event. Raises CheckpointError: nothing goes on then.

        reschedule: the rates are those of the length that the run has now.
        """
        with restoring(found.path):
            notes = [*found.notes, *self._put_back(found.tree, step_of(found.path), reschedule)]
        self.init = found.manifest.get("init")
        told = found.manifest.get("total_steps", self.total)
        if told != self.total:
            notes.append(f"the run was {told} steps long and is {self.total} now")
        epoch = self.step / self.per_epoch
        return {"path": str(found.path), "step": self.step, "epoch": epoch, "restored": sorted(KEYS), "notes": notes}

    def _put_back(self, tree: Mapping[str, Any], step: int, reschedule: bool) -> list[str]:
        """The state of a step; sentences on what of it starts afresh."""
        if wrong := sorted(set(tree) ^ set(KEYS)):
            raise CheckpointError(f"missing or unexpected in the state: {', '.join(wrong)}")
        self.program.restore(tree["program"], **({"reschedule": True} if reschedule else {}))
        steps = (tree["position"], self.program.position, step)
        if len(set(steps)) > 1:
            raise CheckpointError(f"the state is of step {steps[0]}, the program's of step {steps[1]}")
        self.step = self.saved = tree["position"]
        if tree["window"]:
            self.program.fetch(tree["window"])  # what it cannot add up now it could not at the next log
        self._window.extend(tree["window"])
        self.latest = {str(name): float(value) for name, value in tree["latest"].items()}
        notes = self.best.restore(tree["best"], lambda at: self.checkpoints.path(at).is_dir())
        notes += self.dispatch.restore(tree["observers"])
        put_back(tree["random"])
        return notes

    # -- events ------------------------------------------------------------------------------------------------------
    def emit(
        self,
        name: EventName,
        metrics: Mapping[str, float] | None = None,
        detail: Mapping[str, Any] | None = None,
        *,
        failed: bool = False,
        step: int | None = None,
    ) -> None:
        """Write an event down and hand it to the observers; failed: the other ranks may be gone, so none is waited for.

        step: at which it happened, where that is over (a checkpoint that was written meanwhile).
        """
        found, more = dict(metrics or {}), dict(detail or {})
        at = self.step if step is None else step
        self.latest.update(found)
        self.write(name, found, {k: v for k, v in more.items() if k != "panels"}, at)
        event = Event(name, at, at / self.per_epoch, MappingProxyType(found), self.view, MappingProxyType(more))
        if failed and self.ranks.world > 1:
            self._dispatch(event, self._no_service)
            return
        serve(self.ranks, lambda call: self._dispatch(event, call), {"weights": self.program.weights})
        self.stop = self._first(self.stop)

    def _dispatch(self, event: Event, call: Callable[[str], Any]) -> None:
        before, self._call, self._in_event = self._call, call, True
        try:
            self.dispatch(event)
        finally:
            self._call, self._in_event = before, False

    @staticmethod
    def _no_service(name: str) -> Any:
        raise MapstoError(f"{name} of a run on several ranks can be had while an event is handled, and not afterwards")

    def write(self, name: EventName, metrics: Mapping[str, float], detail: Mapping[str, Any], step: int | None = None) -> None:
        """Append one event to metrics.jsonl in the run folder."""
        at, now = self.step if step is None else step, time.time()
        epoch = at / self.per_epoch
        self.folder.append({"name": name, "step": at, "epoch": epoch, "metrics": metrics, "detail": detail, "time": now})


def whole(reader: Any) -> Any:
    """The reader as evaluation reads it: every record once, in the source's order, the remainder included."""
    return reader.sequential() if hasattr(reader, "sequential") else reader


@contextmanager
def counted(reader: Any, path: str, reader_args: Mapping[str, Any] | None = None, ranks: Ranks | None = None) -> Iterator[Any]:
    """The batches of one epoch, whose records are counted. Raises DataError where an epoch does not hold each once.

    reader_args: the micro-shards that this rank reads; ranks: over which the records are then counted.
    """
    seen = _Seen()
    with reader.stream(0, reader.batches_per_epoch, **(reader_args or {})) as stream:
        yield _counting(stream, seen)
    if not seen.all:  # whoever looks at the first batches only is not told of the others
        return
    told = sum(_distinct(ranks, seen.records, reader_args)) if ranks is not None and reader_args else seen.records
    if told != reader.records:
        raise DataError(f"{path}: {told} records were evaluated, and the reader holds {reader.records}")


@dataclass
class _Seen:
    records: int = 0
    all: bool = False


def _counting(stream: Any, seen: _Seen) -> Iterator[Any]:
    for _, batch in stream:
        parts = [part for part in batch if not isinstance(part, PaddingBatch)] if isinstance(batch, list) else [batch]
        seen.records += sum(size(part) for part in parts)
        yield batch
    seen.all = True


def _distinct(ranks: Ranks, seen: int, reader_args: Mapping[str, Any]) -> list[int]:
    """The counts of ranks with different micro-shards; those that share theirs (tensor, pipeline) count once."""
    return list(dict(ranks.gather((reader_args["shard"], seen))).values())


def evaluate(
    program: Program, reader: Any, path: str, ranks: Ranks | None = None, *, batches: int | None = None
) -> dict[str, float]:
    """The program's metrics over each record of a reader once, or of its first `batches`. Raises DataError naming `path`."""
    reader_args = getattr(program, "evaluation_reader_args", program.reader_args)  # of a program whose steps read nothing here
    if batches is not None:
        with whole(reader).stream(0, min(batches, reader.batches_per_epoch), **reader_args) as stream:
            return program.evaluate(batch for _, batch in stream)
    with counted(whole(reader), path, reader_args, ranks) as every:
        return program.evaluate(every)
