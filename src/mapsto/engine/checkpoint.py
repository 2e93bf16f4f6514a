"""Checkpoints: a directory that exists whole or not at all, and is read only where every byte is what was written.

`step-00000120/` holds manifest.json (sizes, SHA-256, versions, whose it is), state.json and tensors.safetensors. It is
written under a temporary name, every file forced to the device, the manifest last, and then renamed. `docs/decisions`
says why in this order.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError
from .durable import sync, write
from .tree import flatten, unflatten
from .wing import Wing

FORMAT = 1
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
_NAME = re.compile(r"step-(\d{8,})")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Checkpoint:
    """One that was read: its manifest and the state tree."""

    path: Path
    manifest: Mapping[str, Any]
    tree: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in `folder` (need not exist)."""

    def __init__(self, folder: Path, wing: Wing) -> None:
        self.folder, self.wing = folder, wing

    def paths(self) -> list[Path]:
        """All of them, by step."""
        return checkpoint_paths(self.folder)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    # -- writing -----------------------------------------------------------------------------------------------------
    def clean(self) -> list[str]:
        """Remove what a killed writer left; the names of it. Only for the one process that writes here."""
        found = list(self.folder.glob(".step-*.tmp"))
        for path in found:
            shutil.rmtree(path)
        return [p.name for p in found]

    def save(self, step: int, tree: Mapping[str, Any], about: Mapping[str, Any]) -> Path:
        """Write the state after `step`; `about` goes into the manifest.

        Raises CheckpointError where it cannot be written (no space left, ...) or the tree holds what no file can; then
        nothing of it is left, and those there were are untouched.
        """
        final = self.path(step)
        if final.exists():
            raise CheckpointError(f"{final} exists already: a checkpoint is never overwritten")
        temporary = self.folder / f".{final.name}.{os.getpid()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            self._write(temporary, step, tree, about)
            os.rename(temporary, final)
            sync(self.folder)
        except BaseException as error:
            with contextlib.suppress(OSError):
                shutil.rmtree(temporary)
            if isinstance(error, CheckpointError) or not isinstance(error, Exception):
                raise
            newest = next(reversed(self.paths()), None)
            kept = f"the newest good one is {newest}" if newest else "there is no earlier one"
            reason = why(error, self.folder)
            raise CheckpointError(f"the checkpoint of step {step} could not be written: {reason}; {kept}") from error
        return final

    def _write(self, folder: Path, step: int, tree: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        plain, tensors = flatten(tree, self.wing.is_tensor)
        self.wing.save_tensors(tensors, folder / TENSORS)
        sync(folder / TENSORS)
        write(folder / STATE, json.dumps(plain, allow_nan=False, separators=(",", ":")).encode())
        manifest = {
            "format": FORMAT,
            "step": step,
            "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **about,
            "holds": sorted(tree),
            "tensors": len(tensors),
            "files": {name: _measure(folder / name) for name in (STATE, TENSORS)},
        }
        write(folder / MANIFEST, json.dumps({**manifest, "digest": _digest(manifest)}, indent=1).encode())
        sync(folder)

    def prune(self, keep: int | None, best: Collection[int]) -> list[Path]:
        """Remove all but the newest `keep` (None: all are kept) and those of the steps in `best`; what was removed."""
        if keep is None:
            return []
        paths = self.paths()
        gone = [p for p in paths[: max(len(paths) - max(keep, 1), 0)] if step_of(p) not in best]
        for path in gone:  # hidden first, so that a kill in between leaves no half of one under its name
            hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            os.rename(path, hidden)
            shutil.rmtree(hidden)
        return gone

    def set_aside(self, step: int) -> list[str]:
        """Rename those after `step` to `was-step-...`: going on from an older one, they are another history's."""
        later = [p for p in self.paths() if step_of(p) > step]
        for path in later:
            aside = path.with_name(f"was-{path.name}")
            if aside.exists():
                shutil.rmtree(aside)
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
        for entry in read_manifest(paths[-1])["best"]["entries"] if paths else ():
            if (path := self.path(entry["step"])).is_dir():
                return path
        return None

    def load(self, path: Path) -> Checkpoint:
        """Read and verify one. Raises CheckpointError naming the file that is wrong and the intact ones there are."""
        try:
            manifest = verify(path)
            plain = json.loads((path / STATE).read_bytes())
            tree = unflatten(plain, self.wing.load_tensors(path / TENSORS))
        except CheckpointError as error:
            raise CheckpointError(f"{error}\n{self._instead(path)}") from None
        except Exception as error:  # the bytes are those that were written, and yet they cannot be read
            raise CheckpointError(f"{path} is intact but cannot be read: {type(error).__name__}: {error}") from error
        return Checkpoint(path, manifest, tree)

    def _instead(self, path: Path) -> str:
        intact = [p for p in self.paths() if p != path and _is_intact(p)]
        if not intact:
            return "There is no other intact checkpoint in this run."
        listed = ", ".join(p.name for p in reversed(intact))
        return f"Intact: {listed}. Go on from one with: mapsto train --resume {intact[-1]}"


def checkpoint_paths(folder: Path) -> list[Path]:
    """The finished checkpoints in a folder, by step."""
    found = [p for p in folder.glob("step-*") if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step that a checkpoint's name tells."""
    found = _NAME.fullmatch(path.name)
    if found is None:
        raise CheckpointError(f"{path.name!r} is not the name of a checkpoint, such as step-00000120")
    return int(found[1])


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, verified itself. Raises CheckpointError."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        claimed = manifest.pop("digest")
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: {path.name} is no checkpoint, or parts of it were lost") from None
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{file} is corrupt: {type(error).__name__}: {error}") from None
    if manifest.get("format") != FORMAT:
        version = manifest.get("versions", {}).get("mapsto", "another version")
        raise CheckpointError(
            f"{file} has format {manifest.get('format')!r}, and this version reads {FORMAT}: "
            f"use the mapsto that wrote it ({version})"
        )
    if claimed != _digest(manifest):
        raise CheckpointError(f"{file} is corrupt: it is not what was written")
    return manifest  # type: ignore[no-any-return]


def verify(path: Path) -> dict[str, Any]:
    """The manifest, after every file was found to be of the size and SHA-256 that it tells. Raises CheckpointError."""
    manifest = read_manifest(path)
    for name, told in manifest["files"].items():
        file = path / name
        try:
            size = file.stat().st_size
            if size != told["size"]:
                raise CheckpointError(f"{file} is corrupt: {size} bytes, and {told['size']} were written")
            if _measure(file)["sha256"] != told["sha256"]:
                raise CheckpointError(f"{file} is corrupt: its SHA-256 is not that of what was written")
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    return manifest


def why(error: BaseException, folder: Path) -> str:
    """In words why a file could not be written; a library may wrap the system's error in its own."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"os error (\d+)", text)):
        number = int(found[1])
    if number in _FULL:
        place = next(p for p in (folder, *folder.parents) if p.exists())
        return f"no space left on the device ({shutil.disk_usage(place).free / 1e6:.1f} MB free at {place})"
    if number == errno.EFBIG:
        return "a file would be larger than is allowed here (ulimit -f)"
    return f"{type(error).__name__}: {text}"


def _is_intact(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True


def _measure(file: Path) -> dict[str, Any]:
    with open(file, "rb") as handle:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
