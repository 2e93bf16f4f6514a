"""The manifest of a checkpoint: what it is, whose, and the size and SHA-256 of every file, so that reading can prove them."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError

WHOLE, PARTS = 1, 2
"""Formats: all tensors in one file; the parts that ranks hold, in a file each."""
MANIFEST = "manifest.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


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
    if manifest.get("format") not in (WHOLE, PARTS):
        version = manifest.get("versions", {}).get("mapsto", "another version")
        raise CheckpointError(
            f"{file} has format {manifest.get('format')!r}, and this version reads {WHOLE} and {PARTS}: "
            f"use the mapsto that wrote it ({version})"
        )
    if claimed != digest(manifest):
        raise CheckpointError(f"{file} is corrupt: it is not what was written")
    return manifest  # type: ignore[no-any-return]


def verify(path: Path, part: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """The manifest, after every file was found to be of the size and SHA-256 that it tells. Raises CheckpointError.

    part: (rank, ranks) that share the work: each reads some of the files, and looks at the size of all.
    """
    manifest = read_manifest(path)
    for number, (name, told) in enumerate(manifest["files"].items()):
        file = path / name
        try:
            size = file.stat().st_size
            if size != told["size"]:
                raise CheckpointError(f"{file} is corrupt: {size} bytes, and {told['size']} were written")
            if number % part[1] == part[0] and measure(file)["sha256"] != told["sha256"]:
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


def measure(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with open(file, "rb") as handle:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its digest."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
