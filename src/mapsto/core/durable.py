"""Files that exist whole or not at all, also after the power went."""

from __future__ import annotations

import contextlib
import os
from io import FileIO
from pathlib import Path


def sync(path: Path) -> None:
    """Force a file, or the names in a directory, to the device. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, data: bytes) -> None:
    """Write a new file and force it to the device. Raises OSError."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fresh(path: Path) -> FileIO:
    """A new file, open for writing, in the place of whatever has its name: of a pipe one would wait for a reader, and a link
    leads elsewhere. Raises OSError."""
    path.unlink(missing_ok=True)
    return open(path, "xb", buffering=0)


def replace(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside it and rename: readers see the old content or the new. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        write(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)
