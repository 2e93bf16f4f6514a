"""The run: a spec being carried out, and its folder."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from ..core.errors import SpecError, said_of
from ..core.spec import Spec
from .assembly import P
from .awaited import require_awaited
from .beginning import alike_on_ranks, begin, check_folder, compared
from .checked import checked
from .checkpoints.manifest import MANIFEST
from .dispatch import Dispatch, build_observers
from .ending import Result, ending, failed, result_of
from .environment import versions
from .folder import SPEC, Onlooker, RunFolder, default_folder
from .identity import identity_of, moved
from .loop import Loop
from .ranks import agree, lead
from .resuming import Accepted
from .signals import interruptible
from .streams import seeded
from .trained import Trained

__all__ = ["Result", "Run"]


class Run(Trained[P]):
    """A spec being carried out: `Run(spec).fit()`, or `Run(model=..., data=..., ...)` with the arguments of a Spec.

    folder: where it is kept (default `runs/NAME-TIME`, made when it begins); observers: besides those of the spec.
    Raises SpecError.
    """

    def __init__(
        self, spec: Spec | None = None, folder: str | Path | None = None, *, observers: Iterable[Any] = (), **fields: Any
    ) -> None:
        if (spec is None) == (not fields):
            raise SpecError("Run is given either a spec or the arguments of one: Run(spec) or Run(model=..., data=..., ...)")
        wanted = spec if spec is not None else Spec(**fields)
        if not isinstance(wanted, Spec):
            raise SpecError(f"Run is given a {type(wanted).__name__}, and a mapsto.Spec is wanted")
        super().__init__(wanted, RunFolder(folder if folder is not None else default_folder(wanted.name)))
        self.observers = tuple(observers)

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
        with said_of(path / SPEC):
            kept.check()
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
        lead(ranks, lambda: check_folder(self.folder, self.checkpoints, start))
        if start is not None and self._begins:
            self._begins = False
            if self._init is not None and not self._moved:  # a program that took weights to begin with is none to go on with
                del self.__dict__["program"]
        # Of several ranks each looks for the weights itself.
        self._checked = checked(self.spec, begins=start is None and ranks.world == 1)
        if self._alone:  # what evaluated is not what trains
            del self.__dict__["program"]
            self._alone, self._at = False, None
        with contextlib.ExitStack() as stack:
            lead(ranks, lambda: self._lock(stack))
            stack.enter_context(seeded(self.spec.seed, "run", self.wing))
            return self._fit(start)

    def _lock(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(self.folder.lock())

    def _fit(self, start: str | int | Path | None) -> Result:
        lead(self.ranks, self.checkpoints.clean)
        path = self._find(start) if start is not None else None
        loop = self._loop()
        with contextlib.ExitStack() as stack:
            stack.callback(self.folder.close)
            stack.callback(loop.dispatch.close)
            stack.callback(getattr(loop.program, "close", _nothing))  # processes that it started
            found = self._load(path) if path is not None else None
            notes, reschedule = (
                lead(self.ranks, lambda: compared(loop, found, self._accepted)) if found is not None else ([], False)
            )
            require_awaited(loop)
            stack.enter_context(loop.watch)
            stack.enter_context(interruptible(lambda name: loop.request_stop("interrupted", name)))
            self._moved, self._at = True, None
            try:
                detail = begin(loop, found, self._elsewhere, notes, reschedule)
                if self._learned:
                    loop.folder.write_learned(self._learned)
                loop.emit("start", detail=detail)
                loop.run()
                done = ("finished", f"{loop.total} steps are done")
                reason, why = done if loop.step >= loop.total else loop.stop or done
                result = result_of(loop, reason, why)
                loop.emit("end", loop.latest, ending(loop, result, self.measured, self.reader))
            except BaseException as error:
                failed(loop, error)
                raise
            self._at, self._from = result.last, "last"
            return result

    def _loop(self) -> Loop:
        readers = {name: self.reader(name) for name in ("train", *self.spec.validation_sets)}
        if self.ranks.world > 1:
            agree(self.ranks, alike_on_ranks(self.identity, readers["train"], self.wing))
        data = lead(self.ranks, lambda: {name: self._fingerprint(name) for name in readers})
        program = self.program
        if self._init is not None and self.ranks.world > 1:
            agree(self.ranks, {"weights to start from": self._init["sha256"]})
        observers = build_observers(self.spec.observers, self.observers, self.spec.wing) if self.ranks.leader else []
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


def _nothing() -> None:
    """What a program without processes of its own has to close."""
