"""The use of what was trained: evaluation and prediction with the weights of a fit, or of a checkpoint of the folder."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError
from ..core.spec import Spec
from .assembly import Assembly, P
from .checkpoints.checkpoint import Checkpoint, restoring
from .environment import versions
from .folder import RunFolder
from .identity import identity_of, moved
from .loop import counted, evaluate, whole
from .ranks import lead
from .resuming import Accepted, compared_data
from .streams import preserve_rng

log = logging.getLogger("mapsto")


class Trained(Assembly[P]):
    """The parts of a run with the weights that its program is to hold while it is used."""

    def __init__(self, spec: Spec, folder: RunFolder) -> None:
        super().__init__(spec, folder)
        self.identity = identity_of(spec)  # now: what a live object tells of itself may change while it trains
        self._from: str | int | Path | None = None
        self._at: Path | None = None
        self._moved = False
        self._accepted = Accepted()
        self._elsewhere: list[str] = []

    @property
    def measured(self) -> str | None:
        """The data set that tells most of what was trained: `test`, else `valid`, else another validation set, if any."""
        return next((n for n in ("test", "valid", *self.spec.validation_sets) if n in self.spec.data), None)

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
        with self._weights_of(checkpoint), preserve_rng(self.wing):
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
        length = self._length_of_checkpoint() or self._length
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
        with self._weights_of(checkpoint), preserve_rng(self.wing):
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
