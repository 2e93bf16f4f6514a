"""Checkpoints: a directory that exists whole or not at all, and is read only where every byte is what was written.

`step-00000120/` holds manifest.json (sizes, SHA-256, versions, whose it is), state.json and the tensors: one file of all of
them, tensors.safetensors, or a safetensors file for each rank that holds parts. It is written under a temporary name, every
file forced to the device, the manifest last, and then renamed (see `writing`). `docs/decisions` says why in this order.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import CheckpointError, MapstoError
from ..ranks import Alone, Ranks, each
from ..wing import Program, Wing
from .manifest import PARTS, TENSORS, read_manifest, read_run_manifest, read_state, verify
from .tree import of_rank, references, unflatten
from .writing import Writing, seen

_NAME = re.compile(r"step-(\d{8,})")
WRITING = 1800.0
"""Seconds that a rank waits for the others while they write or read their parts; one that ends is noticed at once."""


@dataclass(frozen=True)
class Checkpoint:
    """One that was read: its manifest, the state tree, and sentences on what of it starts afresh."""

    path: Path
    manifest: Mapping[str, Any]
    tree: dict[str, Any]
    notes: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one run, in `folder` (need not exist). ranks: those that write and read them together."""

    def __init__(self, folder: Path, wing: Wing, ranks: Ranks | None = None) -> None:
        self.folder, self.wing, self.ranks = folder, wing, ranks or Alone()
        self._own_group: Ranks | None = None
        self._cached: dict[str, Any] = {}

    def paths(self) -> list[Path]:
        """The paths of all finished checkpoints of the folder, by step."""
        return checkpoint_paths(self.folder)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    # -- writing -----------------------------------------------------------------------------------------------------
    def clean(self) -> list[str]:
        """Remove what a killed writer left; the names of it. Only for the one process that writes here."""
        found = list(self.folder.glob(".step-*.tmp"))
        for path in found:
            _remove(path)
        return [p.name for p in found]

    def begin(self, step: int, tree: Mapping[str, Any], about: Mapping[str, Any], *, keep: bool = False) -> Writing:
        """Copy the state after `step`; to call what is returned writes it. All ranks do both. `about`: for the manifest.

        keep: hold the memory of the copy for the next one. Raises CheckpointError where no file can hold the tree.
        """
        made = Writing(self.folder, step, tree, about, wing=self.wing, ranks=self._line(), cached=self._cached)
        self._cached = made.tensors if keep else {}
        return made

    def _line(self) -> Ranks:
        """The ranks on a line that training does not use; all ranks come here for the first time together."""
        if self._own_group is None:
            self._own_group = self.ranks.new_group(WRITING)
        return self._own_group

    def save(self, step: int, tree: Mapping[str, Any], about: Mapping[str, Any]) -> Path:
        """Write the state after `step`; `about` goes into the manifest.

        Raises CheckpointError where it cannot be written (no space left, ...) or the tree holds what no file can; then
        nothing of it is left, and those there were are untouched.
        """
        return self.begin(step, tree, about)()

    def prune(self, keep: int | None, best: Collection[int]) -> list[Path]:
        """Remove all but the newest `keep` (None: all are kept) and those of the steps in `best`; what was removed."""
        if keep is None:
            return []
        paths = self.paths()
        gone = [p for p in paths[: max(len(paths) - max(keep, 1), 0)] if step_of(p) not in best]
        for path in gone:  # hidden first, so that a kill in between leaves no half of one under its name
            hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            os.rename(path, hidden)
            _remove(hidden)
        return gone

    def set_aside(self, step: int) -> list[str]:
        """Rename those after `step` to `was-step-...`: going on from an older one, they are another history's."""
        later = [p for p in self.paths() if step_of(p) > step]
        for path in later:
            aside = path.with_name(f"was-{path.name}")
            if aside.exists():
                _remove(aside)
            os.rename(path, aside)
        return [f"was-{p.name}" for p in later]

    # -- reading -----------------------------------------------------------------------------------------------------
    def find(self, which: str | int | Path) -> Path:
        """`last`, `best`, a step, a name such as `step-00000120`, or a path. Raises CheckpointError with what there is."""
        paths = self.paths()
        if which == "last" and paths:
            return paths[-1]
        if which == "best":
            if (best := self.best()) is not None:
                return best
            raise CheckpointError(f"{self.folder} keeps no best checkpoint (nothing was evaluated, or checkpoint.best is 0)")
        name = self.path(int(str(which))).name if str(which).isdigit() else Path(str(which)).name
        found = [p for p in paths if p.name == name]
        if not found:
            there = ", ".join(p.name for p in paths) or "none (a run that ended before its first one is started anew)"
            raise CheckpointError(f"there is no checkpoint {str(which)!r} in {self.folder}; there are: {there}")
        return found[0]

    def best(self) -> Path | None:
        """The best one by the metric that the run keeps, or None."""
        paths = self.paths()
        for entry in self.manifest(paths[-1], read_manifest).get("best", {}).get("entries", ()) if paths else ():
            if (path := self.path(entry["step"])).is_dir():
                return path
        return None

    def manifest(self, path: Path, read: Callable[[Path], dict[str, Any]] = read_run_manifest) -> dict[str, Any]:
        """The manifest of one, verified itself. Raises CheckpointError that names the intact ones too."""
        try:
            return read(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}\n{self._instead(path)}") from None

    def load(self, path: Path, program: Program | None = None, *, looking: bool = False) -> Checkpoint:
        """Read and verify one; all ranks do. Raises CheckpointError naming the file that is wrong and the intact ones.

        program: where it holds shards on this rank, those alone are read; without one, whole tensors. looking: somebody
        evaluates with it, and does not go on with the run: state that is each rank's own is left out.
        """
        found: list[Any] = []
        try:
            each(self._line(), lambda: found.extend(self._read(path, looking, program)))
            manifest, plain, names, notes = found
            tree = unflatten(plain, self._tensors(path, manifest, names, program), self.ranks.rank)
        except CheckpointError as error:
            told = f"{error}" if str(path) in str(error) else f"{path}: {error}"
            raise CheckpointError(f"{told}\n{self._instead(path)}") from None
        except Exception as error:  # the bytes are those that were written, and yet they cannot be read
            said = " ".join(str(error).split())[:500]
            raise CheckpointError(f"{path} is intact but cannot be read: {type(error).__name__}: {said}") from error
        return Checkpoint(path, manifest, tree, tuple(notes))

    def _read(self, path: Path, looking: bool, program: Program | None) -> tuple[dict[str, Any], Any, list[str], list[str]]:
        """The verified manifest, the plain data, the names of the tensors it refers to, and notes."""
        ranks = self.ranks
        if ranks.world > 1:
            seen(path)
        manifest = verify(path, (ranks.rank, ranks.world))
        plain = read_state(path)
        if ranks.world > 1 and program is not None:
            plain["program"] = self.wing.local_state(plain["program"], program)
        names, own = references(plain, path)
        there = int(manifest.get("ranks", 1))
        notes: list[str] = []
        if there == ranks.world and not looking:
            names += [of_rank(name, ranks.rank) for name in own]
        elif not looking:
            said = f"each rank's own, {there} wrote it, and {ranks.world} go on"
            if lost := [name for name, afresh in own.items() if not afresh]:
                raise CheckpointError(f"{path}: {', '.join(lost[:4])} is {said}: go on with {there} ranks")
            notes = [f"{name} starts afresh: it is {said}" for name in own]
        return manifest, plain, names, notes

    def _tensors(self, path: Path, manifest: Mapping[str, Any], names: list[str], program: Program | None) -> dict[str, Any]:
        if manifest["format"] == PARTS or (self.ranks.world > 1 and program is not None):
            return self.wing.load_shards(path, names, program, self._line())
        found = self.wing.load_tensors(path / TENSORS)
        gone = set(found) - set(names) if len(names) < len(found) else set()
        return {name: tensor for name, tensor in found.items() if name not in gone or "@" not in name}

    def _instead(self, path: Path) -> str:
        intact = [p for p in self.paths() if p != path and _is_intact(p)]
        if not intact:
            return "There is no other intact checkpoint in this run."
        listed = ", ".join(p.name for p in reversed(intact))
        return f"Intact: {listed}. Go on from one with: mapsto train --resume {intact[-1]}"


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Within it a state is put back. Raises CheckpointError naming the checkpoint, also where the state is of no such kind."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except MapstoError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:500]
        raise CheckpointError(f"{path}: its state cannot be put back: {type(error).__name__}: {said}") from error


def _remove(path: Path) -> None:
    """Remove a checkpoint; where it is a link to one that lies elsewhere, the link alone."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def checkpoint_paths(folder: Path) -> list[Path]:
    """The finished checkpoints in a folder, by step."""
    found = [p for p in folder.glob("step-*") if _NAME.fullmatch(p.name) and p.is_dir()] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step that a checkpoint's name tells."""
    found = _NAME.fullmatch(path.name)
    if found is None:
        raise CheckpointError(f"{path.name!r} is not the name of a checkpoint, such as step-00000120")
    return int(found[1])


def _is_intact(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True
