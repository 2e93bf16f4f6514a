"""Compressed files, told by their ending: path -> the bytes that were compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..core.errors import DataError, require

ENDINGS = (".bz2", ".gz", ".xz", ".zst")


def inner_suffix(path: Path) -> str:
    """The ending of a file without that of its compression, in lower case: `.csv` of `a.CSV.gz`."""
    return (Path(path.stem) if is_compressed(path) else path).suffix.lower()


def is_compressed(path: Path) -> bool:
    """Whether a file's ending is that of a compression."""
    return path.suffix.lower() in ENDINGS


@contextmanager
def opened(path: Path, who: str) -> Iterator[BinaryIO]:
    """A file opened for reading its plain bytes. Raises DataError where it cannot be read or what it holds is damaged."""
    try:
        with _open(path, who) as file:
            yield file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{who}: {path} cannot be read: {error}") from error


def read_bytes(path: Path, who: str) -> bytes:
    """All bytes of a file as they were before it was compressed."""
    with opened(path, who) as file:
        return file.read()


def _open(path: Path, who: str) -> BinaryIO:
    match path.suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.open(path))
        case ".bz2":
            return cast(BinaryIO, bz2.open(path))
        case ".xz":
            return cast(BinaryIO, lzma.open(path))
        case ".zst":
            arrow: Any = require("pyarrow", "arrow", f"the source `{who}` of a .zst file")
            return cast(BinaryIO, arrow.CompressedInputStream(arrow.OSFile(str(path)), "zstd"))
        case _:
            return path.open("rb")
