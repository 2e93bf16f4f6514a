"""What a run is put together from: each part is built once, when it is first asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, cast

from ..core.errors import CheckpointError, DataError, MissingFile, nearest
from ..core.parts import build
from ..core.spec import Spec
from ..data.class_folders import share_classes
from ..data.fitted import counterparts, fit, stated, waits
from ..data.stream import check_reader
from .checkpoints.checkpoint import Checkpoints
from .checkpoints.manifest import read_run_manifest
from .fingerprint import fingerprint
from .folder import LEARNED, RunFolder
from .initial import Initial, read_initial
from .ranks import Alone, Ranks, each
from .streams import preserve_rng, seeded
from .wing import Program, Wing, find_wing

if TYPE_CHECKING:  # a default for what a program is typed as came to Python's own typing in 3.13
    from typing_extensions import TypeVar

    P = TypeVar("P", bound=Program, default=Program)
else:
    from typing import TypeVar

    P = TypeVar("P", bound=Program)


class Assembly(Generic[P]):
    """The parts of a run: the wing, the ranks, the checkpoints, the readers by name and the program."""

    def __init__(self, spec: Spec, folder: RunFolder) -> None:
        self.spec = spec
        self.folder = folder
        self._begins = True
        self._alone = False
        self._checked: Spec | None = None
        self._init: dict[str, Any] | None = None
        self._readers: dict[str, Any] = {}
        self._learned: dict[str, dict[str, Any]] = {}

    @cached_property
    def wing(self) -> Wing:
        """The module that implements `Wing` for the framework that the spec names, imported when it is first asked for."""
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
                made = self._read(name)
            check_reader(made, f"data.{name}")
            self._readers[name] = made
            self.fit_transforms(made, name)
            if name != "train" and "train" in self.spec.data:
                share_classes(made, lambda: self.reader("train"), "data.train")
        return self._readers[name]

    def _read(self, name: str) -> Any:
        try:
            injected, wing = {"seed": self.spec.seed}, self.spec.wing
            return build(self.spec.data[name], "reader", path=f"data.{name}", injected=injected, wing=wing)
        except MissingFile as error:
            if self._begins:
                raise
            where = str(error).partition(": ")[0]
            raise MissingFile(
                f"{error}\nWhere the data were moved, say so behind the command, such as {where}.path=/new/place"
            ) from error

    def fit_transforms(self, reader: Any, name: str) -> None:
        """Give a reader, which the spec states as `name`, what its transforms learned: from the training records at a run's
        beginning, from the run's folder ever after.

        Raises DataError where a transform that learns stands in other data than data.train and not there, CheckpointError
        where the folder has lost what was learned.
        """
        waiting = [i for i, t in enumerate(getattr(reader, "transforms", ())) if waits(t)]
        if not waiting:
            return
        begun = bool(self.checkpoints.paths())
        if name == "train":
            places = {i: i for i in waiting}
            if not begun:
                fit(reader)
                self._learned |= {str(i): dict(reader.transforms[i].learned) for i in waiting}
        elif "train" not in self.spec.data:
            raise DataError(f"data.{name}.transforms.{waiting[0]} learns from data.train, which the spec has not")
        else:
            own = stated(self.spec.data[name])
            places = counterparts(self.spec.data["train"], [(i, own[i]) for i in waiting], f"data.{name}")
            if not begun:
                self.reader("train")
        if begun and not self._learned:
            self._learned |= self.folder.learned()
        for own_place, place in places.items():
            if (learned := self._learned.get(str(place))) is None:
                raise CheckpointError(f"{self.folder.path / LEARNED} lacks what data.train.transforms.{place} learned")
            reader.transforms[own_place].learned = learned

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
        if spec is not self._checked:
            spec.check()
        injected = {**(length or self._length), "seed": self.spec.seed}
        initial = None
        if spec.init_from is not None and self._begins:
            found: list[Initial] = []
            each(self.ranks, lambda: found.append(read_initial(spec.init_from, self.wing)))  # a rank that cannot, stops all
            (initial,) = found
        with seeded(spec.seed, "build", self.wing):
            made = self.wing.build(spec, injected, initial) if initial is not None else self.wing.build(spec, injected)
        self._init = initial.finish() if initial is not None else None
        return cast(P, made)

    @property
    def _length(self) -> dict[str, int]:
        """What is injected into parts of the length of the run."""
        return {"total_steps": self.total_steps, "steps_per_epoch": int(self.reader("train").batches_per_epoch)}

    def _length_of_checkpoint(self) -> dict[str, int] | None:
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
            told = self._length_of_checkpoint()
            if told is not None or self.spec.mesh is not None:
                self.__dict__["program"] = self._build(dataclasses.replace(self.spec, mesh=None), told)
                self._alone = True
        return self.program

    def _fingerprint(self, name: str) -> dict[str, Any]:
        with preserve_rng(self.wing):
            return fingerprint(self.reader(name), self.spec.data[name])
