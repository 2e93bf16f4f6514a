"""Files of a run folder as they are read: whatever stands under their names, the answer is their content or one sentence.

A folder may come from anywhere. A file of it is a regular file and no link, so that nothing outside of the folder is read or
waited for; it is no larger than what is written there; what it holds has the shape that its readers rely on.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..core.errors import CheckpointError
from ..core.json_text import read_json
from ..core.typed import shortened

LARGEST = 256 << 20
"""Bytes of a file that is read as a whole."""
LONGEST_LINE = 16 << 20
"""Bytes of one line of a file that is read by lines."""


def opened(file: Path, flags: int = os.O_RDONLY) -> io.FileIO:
    """A regular file, opened unbuffered. Raises FileNotFoundError, or CheckpointError naming what is no regular file."""
    more = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        handle = os.open(file, flags | more, 0o666)  # a pipe is opened at once, and refused below
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file)) from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ELOOP:
            raise CheckpointError(f"{file} is a link, and a run's files are none") from None
        raise CheckpointError(f"{file} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CheckpointError(f"{file} is no regular file")
    return io.FileIO(handle, "ab" if flags & os.O_APPEND else "rb")


def read_bytes(file: Path, most: int = LARGEST) -> bytes:
    """The content of a regular file. Raises FileNotFoundError, or CheckpointError where it is none, or too large."""
    with opened(file) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > most:
            raise CheckpointError(f"{file} holds {size:,} bytes, and at most {most:,} are read")
        try:
            return handle.readall()
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error


def read_text(file: Path) -> str:
    """The text of a regular file. Raises FileNotFoundError, or CheckpointError where it is none, or not UTF-8."""
    try:
        return read_bytes(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is not UTF-8 text (byte {error.start})") from None


def read_lines(file: Path) -> Iterator[bytes]:
    """The lines of a regular file; of one that is too long the pieces. Raises as `read_bytes` does."""
    with opened(file) as handle, io.BufferedReader(handle) as lines:
        yield from iter(lambda: lines.readline(LONGEST_LINE), b"")


def read_shaped(file: Path, shape: Any) -> Any:
    """The JSON of a file that is of a shape (see `shapes`). Raises FileNotFoundError, or CheckpointError saying what is not."""
    try:
        return shaped(read_bytes(file), shape)
    except ValueError as error:
        raise CheckpointError(f"{file} is corrupt: {error}") from None


def shaped(data: bytes, shape: Any) -> Any:
    """Plain data from JSON of a shape. Raises ValueError with a reason of one line."""
    found = read_json(data)
    try:
        _adapter(shape).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(step) for step in first["loc"])
        raise ValueError(f"{shortened(path, 80)[1:-1] or 'it'}: {first['msg']}") from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return found


@functools.cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
