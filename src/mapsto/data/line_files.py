"""Files of lines: line number -> its bytes or text. Encodings, byte-order marks, line ends, compression."""

from __future__ import annotations

import codecs
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from .compressed import is_compressed, read_bytes
from .paths import PathLike, existing_file
from .source import Indices

SCAN = 1 << 24
UTF8_MARK = b"\xef\xbb\xbf"


class LineFile:
    """Maps a line number to its bytes, by the offsets of the lines in one file (found in one scan, 8 bytes a line).

    A file is memory-mapped; one that is compressed, or of an encoding whose line ends are not those of ASCII, is held in
    memory. Lines end by LF or CR LF, or by CR alone in a file that has no LF; a byte-order mark is no text.
    """

    def __init__(self, path: PathLike, who: str, *, encoding: str = "utf-8", skip_blank: bool = False) -> None:
        self.path, self.who = existing_file(path, who), who
        self.encoding, self._transcoded = _codec(encoding, who)
        self._data: mmap.mmap | bytes | None = None
        self.starts, self.stops = self._scan()
        self.numbers: Indices | None = None
        if skip_blank:
            kept = np.array([bool(self.raw(i).strip()) for i in range(len(self.starts))], bool)
            if not kept.all():
                self.numbers = np.flatnonzero(kept)
                self.starts, self.stops = self.starts[kept], self.stops[kept]

    def _open(self) -> mmap.mmap | bytes:
        if self._transcoded is not None:
            return read_text(self.path, self._transcoded, self.who).encode("utf-8", "surrogatepass")
        if is_compressed(self.path):
            return read_bytes(self.path, self.who)
        if self.path.stat().st_size == 0:
            return b""
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _scan(self) -> tuple[Indices, Indices]:
        """Where each line starts and stops, without its line end; a last line needs none."""
        self._data = self._open()
        if self.encoding == "utf-8":
            refuse_utf16(self._data[:2], self.path)
        size, first = len(self._data), len(UTF8_MARK) if self.encoding == "utf-8" and self._data[:3] == UTF8_MARK else 0
        if size == first:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        mapped = isinstance(self._data, mmap.mmap)  # a view of the map itself would keep it from being closed
        data = np.memmap(self.path, np.uint8, "r") if mapped else np.frombuffer(self._data, np.uint8)
        ends = _places(data, 10)
        if not len(ends):
            ends = _places(data, 13)
        if not len(ends) or ends[-1] != size - 1:
            ends = np.append(ends, size)
        starts = np.concatenate([[first], ends[:-1] + 1]).astype(np.int64)
        returns = (ends > starts) & (data[np.maximum(ends - 1, 0)] == 13)
        return starts, ends - returns

    def __len__(self) -> int:
        return len(self.starts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": None}

    def raw(self, line: int) -> bytes:
        """The bytes of a line, counted from 0."""
        if self._data is None:
            self._data = self._open()
        return self._data[self.starts[line] : self.stops[line]]

    def text(self, line: int) -> str:
        """A decoded line. Raises DataError naming file and line."""
        try:
            return self.raw(line).decode(self.encoding)
        except UnicodeDecodeError as error:
            raise DataError(f"{self.place(line)}: {_undecodable(error)}") from None

    def place(self, line: int) -> str:
        """`file:line`, counted from 1 as editors do."""
        number = line if self.numbers is None else int(self.numbers[line])
        return f"{self.path}:{number + 1}"

    def close(self) -> None:
        """Unmap the file; reading maps it again."""
        if isinstance(self._data, mmap.mmap):
            self._data.close()
        self._data = None


def refuse_utf16(data: bytes, path: Path) -> None:
    """Raise DataError for a file of UTF-16 that is read as UTF-8."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DataError(f"{path}: it begins with the byte-order mark of UTF-16: say encoding='utf-16'")


def utf8_of(encoding: str, who: str) -> str | None:
    """The encoding that a file is to be decoded from before lines and cells can be found in it; None where it is UTF-8."""
    name, whole = _codec(encoding, who)
    return whole or (None if name == "utf-8" else name)


def _codec(encoding: str, who: str) -> tuple[str, str | None]:
    """(the encoding of the lines, the one of the whole file where that must be decoded before lines can be found)."""
    try:
        name = codecs.lookup(encoding).name
        ascii_lines = name == "utf-8-sig" or "a\n".encode(encoding) == b"a\n"
    except (LookupError, UnicodeEncodeError):
        raise DataError(f"{who}: {encoding!r} is no encoding of text; such as utf-8, latin-1, cp1252, utf-16") from None
    return ("utf-8" if name == "utf-8-sig" else name, None) if ascii_lines else ("utf-8", name)


def _places(data: Any, byte: int) -> Indices:
    """Where a byte stands, found a piece at a time so that no mask of the whole file is made."""
    found = [np.flatnonzero(data[i : i + SCAN] == byte) + i for i in range(0, len(data), SCAN)]
    return np.concatenate(found).astype(np.int64)


def _undecodable(error: UnicodeDecodeError) -> str:
    byte = f"byte {error.object[error.start]:#04x}" if error.start < len(error.object) else "its end"
    return f"{byte} is not {error.encoding} text; say which encoding it is, such as encoding='latin-1'"


def read_text(path: Path, encoding: str, who: str = "text") -> str:
    """A whole text file, without a byte-order mark. Raises DataError naming file and line where it cannot be decoded."""
    data = read_bytes(path, who)
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: {_undecodable(error)}") from None
