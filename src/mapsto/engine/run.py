"""The run: a spec being carried out, and its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, cast

from ..core.errors import CheckpointError, DataError, MapstoError, SpecError, nearest
from ..core.parts import build
from ..core.recipes import loaded_recipes
from ..core.spec import Spec
from ..core.trust import trust
from ..data.class_folders import share_classes
from ..data.source import notes_of
from .awaited import require_awaited
from .checkpoint import Checkpoint, Checkpoints, restoring
from .dispatch import Dispatch, build_observers
from .environment import changed_recipes, describe, recipe_hashes, versions
from .fingerprint import digest_of, fingerprint
from .folder import Onlooker, RunFolder, default_folder
from .identity import identity_of, moved
from .initial import Initial, lines_of, read_initial
from .loop import Loop, counted, evaluate, whole
from .manifest import MANIFEST, read_run_manifest
from .ranks import Alone, Ranks, agree, each, lead
from .resuming import Accepted, compared_data, compared_schedule
from .signals import interruptible
from .streams import seeded, untouched
from .tree import flatten
from .wing import Program, Wing, find_wing

if TYPE_CHECKING:  # a default for what a program is typed as came to Python's own typing in 3.13
    from typing_extensions import TypeVar

    P = TypeVar("P", bound=Program, default=Program)
else:
    from typing import TypeVar

    P = TypeVar("P", bound=Program)

log = logging.getLogger("mapsto")


@dataclass(frozen=True)
class Result:
    """What came of a fit.

    reason: finished, stopped (asked for by an observer) or interrupted (by a signal), and why in words; steps taken in
    all; metrics: the latest value of each; best, last: checkpoints; go_on: how to continue where it was interrupted.
    """

    reason: Literal["finished", "stopped", "interrupted"]
    why: str
    steps: int
    epochs: float
    metrics: Mapping[str, float]
    folder: Path
    last: Path
    best: Path | None
    go_on: str
    detached: Mapping[str, str] = field(default_factory=dict)


class Run(Generic[P]):
    """A spec being carried out: `Run(spec).fit()`, or `Run(model=..., data=..., ...)` with the arguments of a Spec.

    folder: where it is kept (default `runs/NAME-TIME`, made when it begins); observers: besides those of the spec.
    Raises SpecError.
    """

    def __init__(
        self, spec: Spec | None = None, folder: str | Path | None = None, *, observers: Iterable[Any] = (), **fields: Any
    ) -> None:
        if (spec is None) == (not fields):
            raise SpecError("Run is given either a spec or the arguments of one: Run(spec) or Run(model=..., data=..., ...)")
        self.spec = spec if spec is not None else Spec(**fields)
        if not isinstance(self.spec, Spec):
            raise SpecError(f"Run is given a {type(self.spec).__name__}, and a mapsto.Spec is wanted")
        self.identity = identity_of(self.spec)  # now: what a live object tells of itself may change while it trains
        self.folder = RunFolder(folder if folder is not None else default_folder(self.spec.name))
        self.observers = tuple(observers)
        self._from: str | int | Path | None = None
        self._at: Path | None = None
        self._moved = self._alone = False
        self._accepted = Accepted()
        self._elsewhere: list[str] = []
        self._begins = True
        self._init: dict[str, Any] | None = None
        self._readers: dict[str, Any] = {}

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        *overrides: str,
        checkpoint: str | int | Path | None = None,
        observers: Iterable[Any] = (),
        data_changed: bool = False,
        schedule_changed: bool = False,
        recipes_changed: bool = False,
    ) -> Self:
        """The run of a folder (or of the folder of one of its checkpoints), to go on with or to evaluate.

        overrides: such as `epochs=20`, or where the same data lie now; what decides the trajectory cannot change.
        checkpoint: `last` (default), `best`, a step or a path; data_changed, schedule_changed: as of `fit`;
        recipes_changed: recipe files are read as they are now, and not as the run has kept them. Raises SpecError naming the
        paths that would differ, CheckpointError where there is none.
        """
        path = Path(folder)
        if (path / MANIFEST).is_file():
            path, checkpoint = path.parent.parent, checkpoint if checkpoint is not None else path.name
        kept = RunFolder(path).spec()
        kept.load_imports({} if recipes_changed else RunFolder(path).kept_recipes())
        run = cls(kept.override(*overrides), path, observers=observers)
        found, run._elsewhere = moved(identity_of(kept), run.identity)
        if found:
            raise SpecError(
                f"a resumed run keeps its trajectory, and this would change it: {'; '.join(found)}. "
                "Start a new run for that (steps, epochs, log_every, evaluate_every, checkpoint, observers, mesh, device, "
                "data.test, the workers of readers and where the same data lie may change)"
            )
        run._from = checkpoint if checkpoint is not None else "last"
        run._begins = False
        run._accepted = Accepted(data_changed, schedule_changed, recipes_changed)
        return run

    # -- parts -------------------------------------------------------------------------------------------------------
    @cached_property
    def wing(self) -> Wing:
        """The framework behind it."""
        return find_wing(self.spec.wing)

    @cached_property
    def ranks(self) -> Ranks:
        """The processes that carry this run out together: those that a launcher started, or this one."""
        return self.wing.ranks(self.spec) or Alone()

    @cached_property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder.checkpoints, self.wing, self.ranks)

    def reader(self, name: str) -> Any:
        """The reader of that name in the spec's data, built once. Raises DataError with the names there are."""
        if name not in self.spec.data:
            raise DataError(f"data.{name}: the spec names no such reader; {nearest(name, self.spec.data)}")
        if name not in self._readers:
            self.spec.load_imports()
            with seeded(self.spec.seed, f"data.{name}", self.wing):
                made = build(self.spec.data[name], "reader", path=f"data.{name}", offers={"seed": self.spec.seed})
            missing = [a for a in ("stream", "batches_per_epoch", "records") if not hasattr(made, a)]
            if missing:
                raise DataError(f"data.{name}: {type(made).__name__} is no reader: it has no {', '.join(missing)}")
            self._readers[name] = made
            if name != "train" and "train" in self.spec.data:
                share_classes(made, lambda: self.reader("train"), "data.train")
        return self._readers[name]

    @cached_property
    def total_steps(self) -> int:
        """Steps of the whole run: those of the spec, or its epochs (default one) of the training reader."""
        if self.spec.steps is not None:
            return self.spec.steps
        return (1 if self.spec.epochs is None else self.spec.epochs) * int(self.reader("train").batches_per_epoch)

    @cached_property
    def program(self) -> P:
        """The built program, for those who want their own loop."""
        return self._build(self.spec)

    def _build(self, spec: Spec, length: Mapping[str, int] | None = None) -> P:
        spec.check()
        offers = {**(length or self._length), "seed": self.spec.seed}
        initial = None
        if spec.init_from is not None and self._begins:
            found: list[Initial] = []
            each(self.ranks, lambda: found.append(read_initial(spec.init_from, self.wing)))  # a rank that cannot, stops all
            (initial,) = found
        with seeded(spec.seed, "build", self.wing):
            made = self.wing.build(spec, offers, initial) if initial is not None else self.wing.build(spec, offers)
        self._init = initial.finish() if initial is not None else None
        return cast(P, made)

    @property
    def _length(self) -> dict[str, int]:
        """What parts are offered of the length of the run."""
        return {"total_steps": self.total_steps, "steps_per_epoch": int(self.reader("train").batches_per_epoch)}

    def _told_length(self) -> dict[str, int] | None:
        """The same as the newest checkpoint tells it: who evaluates needs no training data."""
        paths = self.checkpoints.paths()
        if not paths or "train" in self._readers:
            return None
        try:
            manifest = read_run_manifest(paths[-1])
        except CheckpointError:  # another one may be asked for; whoever asks for this one is told
            return None
        if "train" not in manifest.get("data", {}):
            return None
        return {"total_steps": manifest["total_steps"], "steps_per_epoch": manifest["data"]["train"]["batches_per_epoch"]}

    def _for_use(self) -> P:
        """The program that evaluates: in one process that of one, whatever mesh it was trained on."""
        if "program" not in self.__dict__ and self.ranks.world == 1:
            told = self._told_length()
            if told is not None or self.spec.mesh is not None:
                self.__dict__["program"] = self._build(dataclasses.replace(self.spec, mesh=None), told)
                self._alone = True
        return self.program

    # -- training ----------------------------------------------------------------------------------------------------
    def fit(
        self,
        *,
        resume: bool = False,
        checkpoint: str | int | Path | None = None,
        data_changed: bool = False,
        schedule_changed: bool = False,
    ) -> Result:
        """Train to the end, or go on from a checkpoint of the folder (the last one, unless another is named).

        data_changed: the data may be others than those of the checkpoint; schedule_changed: another length may change
        what parts made of it, such as the rates. Raises CheckpointError where the folder holds another run, or the
        checkpoint cannot be restored: a resume never starts afresh; DataError and SpecError where the data or the length
        changed and nobody said that they may. What a mapping raises ends the run (reason `failed`) with the checkpoints
        intact.
        """
        said = self._accepted
        self._accepted = dataclasses.replace(said, data=said.data or data_changed, schedule=said.schedule or schedule_changed)
        start = checkpoint if checkpoint is not None else self._from or ("last" if resume else None)
        ranks = self.ranks
        if ranks.world > 1:  # the leader's folder is everyone's, and only the leader writes into it
            path = ranks.share(self.folder.path)
            self.folder = RunFolder(path) if ranks.leader else Onlooker(path)
        lead(ranks, lambda: self._check_folder(start))
        if start is not None and self._begins:
            self._begins = False
            if self._init is not None and not self._moved:  # a program that took weights to begin with is none to go on with
                del self.__dict__["program"]
        wing = self.wing
        self.spec.check()
        if self._alone:  # what evaluated is not what trains
            del self.__dict__["program"]
            self._alone, self._at = False, None
        with contextlib.ExitStack() as stack:
            lead(ranks, lambda: self._lock(stack))
            stack.enter_context(seeded(self.spec.seed, "run", wing))
            return self._fit(start)

    def _lock(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(self.folder.lock())

    def _check_folder(self, start: str | int | Path | None) -> None:
        if start is None and not self.folder.is_empty():
            path = self.folder.path
            if not self.folder.was_begun():
                there = sorted(p.name for p in path.iterdir())
                more = ", ..." if len(there) > 3 else ""
                raise CheckpointError(
                    f"{path} is not empty and holds no run (there is {', '.join(there[:3])}{more}): "
                    "name a folder that is empty or not there yet"
                )
            how = f"go on with it (mapsto train --resume {path}, or fit(resume=True))"
            if not self.checkpoints.paths():
                how = f"it ended before its first checkpoint: begin it again (mapsto train SPEC --run {path} --continue)"
            raise CheckpointError(f"{path} holds a run already: {how}, or name another folder")
        if start is not None and self.folder.is_empty():
            raise CheckpointError(f"there is no run in {self.folder.path} to go on with")

    def _fit(self, start: str | int | Path | None) -> Result:
        lead(self.ranks, self.checkpoints.clean)
        path = self._find(start) if start is not None else None
        loop = self._loop()
        with contextlib.ExitStack() as stack:
            stack.callback(self.folder.close)
            stack.callback(loop.dispatch.close)
            stack.callback(getattr(loop.program, "close", _nothing))  # processes that it started
            found = self._load(path) if path is not None else None
            compared = lead(self.ranks, lambda: self._compared(loop, found)) if found is not None else ([], False)
            require_awaited(loop)
            stack.enter_context(loop.watch)
            stack.enter_context(interruptible(lambda name: loop.ask("interrupted", name)))
            self._moved, self._at = True, None
            try:
                loop.emit("start", detail=self._begin(loop, found, *compared))
                loop.run()
                done = ("finished", f"{loop.total} steps are done")
                reason, why = done if loop.step >= loop.total else loop.stop or done
                result = self._result(loop, reason, why)
                loop.emit("end", loop.latest, self._ending(loop, result))
            except BaseException as error:
                self._fail(loop, error)
                raise
            self._at, self._from = result.last, "last"
            return result

    def _loop(self) -> Loop:
        readers = {name: self.reader(name) for name in ("train", *self.spec.validation_sets)}
        if self.ranks.world > 1:
            agree(self.ranks, self._told())
        data = lead(self.ranks, lambda: {name: self._fingerprint(name) for name in readers})
        program = self.program
        if self._init is not None and self.ranks.world > 1:
            agree(self.ranks, {"weights to start from": self._init["sha256"]})
        observers = build_observers(self.spec.observers, self.observers) if self.ranks.leader else []
        dispatch = Dispatch(observers, self.wing)
        return Loop(
            spec=self.spec,
            program=program,
            wing=self.wing,
            readers=readers,
            folder=self.folder,
            checkpoints=self.checkpoints,
            dispatch=dispatch,
            versions=versions(self.wing),
            identity=self.identity,
            total=self.total_steps,
            ranks=self.ranks,
            data=data,
            init=self._init,
        )

    def _fingerprint(self, name: str) -> dict[str, Any]:
        with untouched(self.wing):
            return fingerprint(self.reader(name), self.spec.data[name])

    def _compared(self, loop: Loop, found: Checkpoint) -> tuple[list[str], bool]:
        """Notes on what is not as it was when a checkpoint was written, and whether the rates change with the length."""
        with untouched(self.wing), restoring(found.path):
            notes = compared_data(found.manifest, loop.data, loop.readers, loop.versions, self._accepted.data)
        here, was = self._length, found.manifest.get("data", {}).get("train", {})
        there = {
            "total_steps": found.manifest["total_steps"],
            "steps_per_epoch": was.get("batches_per_epoch", here["steps_per_epoch"]),
        }
        said = self._accepted.schedule
        more, reschedule = compared_schedule(self.spec, self.wing, found.manifest["step"], there, here, said)
        return [*notes, *more], reschedule

    def _told(self) -> dict[str, Any]:
        """What must be the same on all ranks, and is compared before they begin."""
        train = self.reader("train")
        return {
            "spec": self.identity,
            "recipe files": {Path(path).name: sha for path, sha in recipe_hashes().items()},
            "versions": versions(self.wing),
            "data": {
                "records": train.records,
                "batches_per_epoch": train.batches_per_epoch,
                "first batch": digest_of(train.batch(0)),
            },
        }

    def _begin(self, loop: Loop, found: Checkpoint | None, notes: list[str], reschedule: bool) -> dict[str, Any]:
        """Restore, and write down what is run with what; the detail of the `start` event."""
        detail: dict[str, Any] = {}
        if told := [f"data.{name}: {note}" for name, reader in loop.readers.items() for note in notes_of(reader)]:
            detail["data"] = told
        before = self.folder.environment()
        if found is not None:
            resumed = loop.restore(found, reschedule=reschedule)
            resumed["notes"] += [*notes, *(f"{path} is another place than it was" for path in self._elsewhere)]
            resumed["notes"] += changed_recipes(before.get("recipes", {}), self.folder)
            resumed["notes"] += _changed_versions(found.manifest["versions"], loop.versions)
            resumed["set_aside"] = lead(self.ranks, lambda: self.checkpoints.set_aside(loop.step))
            resumed["cut"] = lead(self.ranks, lambda: self.folder.cut(loop.step))
            detail["resumed"] = resumed
            if not loop.dispatch.active and self.ranks.leader:  # else the event tells
                for note in resumed["notes"]:
                    log.warning("resumed from %s: %s", found.path, note)
            if not any(r["step"] == loop.step for r in self.folder.records("checkpoint")):  # killed before it was told
                loop.write("checkpoint", {}, {"path": str(found.path), "best": loop.best.is_new(loop.step)})
        elif loop.init is not None:
            detail["init"] = dict(loop.init)
            if not loop.dispatch.active and self.ranks.leader:
                log.info("starting from %s", "; ".join(lines_of(loop.init)))
        each(self.ranks, lambda: self._check_kept(loop.program))
        named = self.folder.write_spec(self.spec)
        self.folder.write_recipes(loaded_recipes())
        found_here = describe(self.spec, self.identity, self.wing, loop.view.summary)
        more = {"init": loop.init} if loop.init is not None else {}
        self.folder.write_environment({**found_here, "resumable_from_folder": named, "data": loop.data, **more})
        if self.ranks.leader:  # whoever trains has run this code, and so trusts it; that it cannot be told ends no run
            with contextlib.suppress(MapstoError, OSError):
                trust(self.folder.code())
        return detail

    def _check_kept(self, program: Program) -> None:
        """Before the first step: whether files can hold the program's state. Raises CheckpointError naming what they cannot."""
        tensors = flatten(program.state_tree(), self.wing.is_tensor, "program", self.ranks.rank)[1]
        if not hasattr(self.wing, "unsaved"):
            return
        parts = self.ranks.world > 1 and any(map(self.wing.is_part, tensors.values()))
        wrong = [f"{name} is {why}" for name, value in tensors.items() if (why := self.wing.unsaved(value, parts)) is not None]
        if wrong:
            more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
            raise CheckpointError(f"no checkpoint could hold this program: {', '.join(wrong[:4])}{more}")

    def _result(self, loop: Loop, reason: Any, why: str) -> Result:
        path = self.folder.path
        live = not self.folder.environment().get("resumable_from_folder", True)
        more = "" if reason == "interrupted" else " epochs=..." if self.spec.steps is None else " steps=..."
        return Result(
            reason=reason,
            why=why,
            steps=loop.step,
            epochs=loop.step / loop.per_epoch,
            metrics=dict(loop.latest),
            folder=path,
            last=self.checkpoints.path(loop.step),
            best=self.checkpoints.best(),
            go_on=f"Run(spec, {str(path)!r}).fit(resume=True)" if live else f"mapsto train --resume {path}{more}",
            detached=dict(loop.dispatch.detached),
        )

    def _ending(self, loop: Loop, result: Result) -> dict[str, Any]:
        detail: dict[str, Any] = {"reason": result.reason, "why": result.why, "last": str(result.last), "go_on": result.go_on}
        if result.best is not None:
            detail["best"] = str(result.best)
        if result.detached:
            detail["detached"] = dict(result.detached)
        shown = self.measured
        if result.reason != "interrupted" and shown is not None:
            detail["panels"] = self._panels(shown)
        if loop.survey is not None:
            if shown == "test" and "panels" in detail:
                with contextlib.suppress(Exception):  # whoever evaluates it is told why it cannot be read
                    loop.survey.evaluated("test", whole(self.reader("test")), self.reader("train"))
            loop.survey.keep(end=True)
        return detail

    def _panels(self, name: str) -> list[dict[str, Any]]:
        """What the task shows in a report, written down; a task that fails at this spoils no run that is finished."""
        try:
            with untouched(self.wing), counted(whole(self.reader(name)), f"data.{name}") as batches:
                panels = self.program.panels(batches)
            self.folder.write_panels(panels)
        except Exception as error:
            log.warning("the report will show no panels of data.%s", name, exc_info=error)
            return []
        return panels

    def _fail(self, loop: Loop, error: BaseException) -> None:
        """Tell the observers and the folder; nothing that goes wrong here hides the error itself."""
        text = "".join(traceback.format_exception_only(error)).strip()
        reason = "failed" if isinstance(error, Exception) else "aborted"
        where = "".join(traceback.format_exception(error))
        if isinstance(error, Exception):
            loop.saves.wait()
        if loop.survey is not None:
            loop.survey.keep(end=True)
        newest = next(reversed(self.checkpoints.paths()), None)
        with contextlib.suppress(MapstoError, OSError):
            loop.step = self.program.position
            detail = {"reason": reason, "why": text, "traceback": where, "last": str(newest) if newest else None}
            loop.emit("end", detail=detail, failed=True)

    @property
    def measured(self) -> str | None:
        """The data set that tells most of what was trained: `test`, else `valid`, else another validation set, if any."""
        return next((n for n in ("test", "valid", *self.spec.validation_sets) if n in self.spec.data), None)

    # -- using what was trained --------------------------------------------------------------------------------------
    def evaluate(self, data: str | Any = None, *, checkpoint: str | int | Path | None = None) -> dict[str, float]:
        """The metrics over a reader (by its name in the spec, or another one), each record once; also written down.

        data: None: `test`, or where the spec has none the validation set, which a warning says. checkpoint:
        `best`, `last`, a step or a path; None: the weights as fit left them, else the last of the folder.
        """
        if data is None:
            data = self.measured or "test"
            if data != "test":
                log.warning("the spec has no data.test: data.%s is evaluated", data)
        path = f"data.{data}" if isinstance(data, str) else "the reader"
        reader = self._checked_reader(data, checkpoint) if isinstance(data, str) else data
        with self._weights_of(checkpoint), untouched(self.wing):
            found = evaluate(self.program, reader, path)
            step = self.program.position
        if isinstance(data, str) and not self.folder.is_empty():
            self._note({"name": "evaluate", "step": step, "metrics": {f"{data}/{k}": v for k, v in found.items()}})
        return found

    def _checked_reader(self, name: str, checkpoint: str | int | Path | None) -> Any:
        """The reader of that name. Raises DataError where its data were said to lie elsewhere and are others."""
        reader = self.reader(name)
        if name in ("train", *self.spec.validation_sets) and any(path.startswith(f"data.{name}.") for path in self._elsewhere):
            manifest = self.checkpoints.manifest(self.checkpoints.find(checkpoint or self._from or "last"))
            here = {name: self._fingerprint(name)}
            for note in compared_data(manifest, here, self._readers, versions(self.wing), self._accepted.data):
                log.warning("%s", note)
        return reader

    def _note(self, record: dict[str, Any]) -> None:
        length = self._told_length() or self._length
        epoch = record["step"] / max(length["steps_per_epoch"], 1)
        with contextlib.closing(RunFolder(self.folder.path)) as folder:
            folder.append({**record, "epoch": epoch, "detail": {"asked": True}, "time": time.time()})

    def predict(self, data: str | Any = "test", *, checkpoint: str | int | Path | None = None) -> Iterator[dict[str, Any]]:
        """The predictions over a reader in the source's order, a dict of arrays a batch. Arguments as of `evaluate`."""
        path = f"data.{data}" if isinstance(data, str) else "the reader"
        reader = self._checked_reader(data, checkpoint) if isinstance(data, str) else data
        return self._predictions(reader, path, checkpoint)

    def _predictions(self, reader: Any, path: str, checkpoint: str | int | Path | None) -> Iterator[dict[str, Any]]:
        with self._weights_of(checkpoint), counted(whole(reader), path) as batches:
            yield from self.program.predict(batches)

    @contextlib.contextmanager
    def trained(self, checkpoint: str | int | Path | None = None) -> Iterator[P]:
        """Within it the program holds trained weights, for code of one's own; arguments as of `evaluate`."""
        with self._weights_of(checkpoint), untouched(self.wing):
            yield self.program

    @contextlib.contextmanager
    def _weights_of(self, checkpoint: str | int | Path | None) -> Iterator[None]:
        """Within it the program holds a checkpoint; afterwards it is as `fit` left it."""
        self._for_use()
        if checkpoint is None:
            checkpoint = self._from
        if checkpoint is None and not self._moved and self.checkpoints.paths():
            checkpoint = "last"
        path = self.checkpoints.find(checkpoint) if checkpoint is not None else self._at
        if path == self._at:
            yield
            return
        before, self._at = self._at, None
        assert path is not None
        self._restore(self._load(self._find(path), looking=True))
        self._at = path
        try:
            yield
        finally:
            if self._moved and before is not None:
                self._restore(self._load(before))
                self._at = before

    def _restore(self, found: Checkpoint) -> None:
        with restoring(found.path):
            self.program.restore(found.tree["program"])

    def _find(self, which: str | int | Path) -> Path:
        """The path of a checkpoint of this very spec, the same on all ranks. Raises CheckpointError naming what differs."""

        def find() -> Path:
            path = self.checkpoints.find(which)
            other, self._elsewhere = moved(self.checkpoints.manifest(path)["identity"], self.identity)
            if other:
                listed = "\n  ".join(other)
                raise CheckpointError(f"{path} is a checkpoint of another spec:\n  {listed}")
            return path

        return lead(self.ranks, find)

    def _load(self, path: Path, *, looking: bool = False) -> Checkpoint:
        """A checkpoint as this program takes it; looking: to evaluate with it, not to go on."""
        return self.checkpoints.load(path, self.program, looking=looking)


def _nothing() -> None:
    """What a program without processes of its own has to close."""


def _changed_versions(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Sentences on versions and settings that may change the numbers."""
    names = [n for n in {**there, **here} if there.get(n) != here.get(n)]
    return [f"{name} was {there.get(name)} and is {here.get(name)} now" for name in names]
