"""The manifest of a checkpoint: what it is, whose, and the size and SHA-256 of every file, so that reading can prove them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import CheckpointError
from ...core.json_text import read_json
from ...core.typed import shortened
from ..reading import opened, read_bytes, read_shaped
from ..shapes import Manifest

WHOLE, PARTS = 1, 2
"""Formats: all tensors in one file; the parts that ranks hold, in a file each."""
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, verified itself. Raises CheckpointError."""
    file = path / MANIFEST
    try:
        manifest = read_shaped(file, Manifest)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: {path.name} is no checkpoint, or parts of it were lost") from None
    claimed = manifest.pop("digest")
    if manifest.get("format") not in (WHOLE, PARTS):
        version = manifest.get("versions", {}).get("mapsto", "another version")
        raise CheckpointError(
            f"{file} has format {manifest.get('format')!r}, and this version reads {WHOLE} and {PARTS}: "
            f"use the mapsto that wrote it ({version})"
        )
    if claimed != digest(manifest):
        raise CheckpointError(f"{file} is corrupt: it is not what was written")
    for name in manifest["files"]:
        if not name or Path(name).name != name or name == "..":
            raise CheckpointError(f"{file} is corrupt: {shortened(name, 60)} is no name of a file beside it")
    if lost := [name for name in required(manifest["format"]) if name not in manifest["files"]]:
        raise CheckpointError(f"{file} is corrupt: it does not list {', '.join(lost)}")
    return manifest  # type: ignore[no-any-return]


def read_run_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint that a run wrote: it tells whose it is, too. Raises CheckpointError."""
    manifest = read_manifest(path)
    if lost := [name for name in ("identity", "total_steps", "step", "versions", "best") if name not in manifest]:
        raise CheckpointError(f"{path / MANIFEST} does not tell {', '.join(lost)}: no run wrote it")
    return manifest


def required(format: int) -> tuple[str, ...]:
    """The files that every checkpoint of a format has besides its manifest."""
    return (STATE, TENSORS) if format == WHOLE else (STATE,)


def verify(path: Path, part: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """The manifest, after every file was found to be of the size and SHA-256 that it tells. Raises CheckpointError.

    part: (rank, ranks) that share the work: each reads some of the files, and looks at the size of all.
    """
    manifest = read_manifest(path)
    for number, (name, told) in enumerate(manifest["files"].items()):
        file = path / name
        try:
            with opened(file) as handle:
                size = os.fstat(handle.fileno()).st_size
                if size != told["size"]:
                    raise CheckpointError(f"{file} is corrupt: {size} bytes, and {told['size']} were written")
                if number % part[1] == part[0] and hashlib.file_digest(handle, "sha256").hexdigest() != told["sha256"]:
                    raise CheckpointError(f"{file} is corrupt: its SHA-256 is not that of what was written")
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    for file in path.glob("*.safetensors"):
        if file.name not in manifest["files"]:
            raise CheckpointError(f"{file} is none of the files that {MANIFEST} lists: take it away")
    return manifest


def read_state(path: Path) -> Any:
    """The plain data of a checkpoint that was verified. Raises CheckpointError where it is no JSON."""
    try:
        return read_json(read_bytes(path / STATE, most=1 << 40))  # as large as what was written
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path / STATE} is corrupt: {error}") from None


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


def measure(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with open(file, "rb") as handle:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its digest."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
