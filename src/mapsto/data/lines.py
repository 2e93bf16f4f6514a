"""Files of lines as sources: plain text and JSON, memory-mapped and indexed by line."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest
from ..core.registry import decorator
from .items import stack, stack_records
from .paths import PathLike, existing_file, existing_files
from .source import Batch, Indices, Source, check_indices

SCAN = 1 << 24


class LineFile:
    """Maps a line number to its bytes, by the offsets of one memory-mapped file (found in one scan, 8 bytes a line)."""

    def __init__(self, path: PathLike, who: str, *, skip_blank: bool = False) -> None:
        self.path, self.who = existing_file(path, who), who
        self._map: mmap.mmap | None = None
        self.starts, self.stops = self._scan()
        self.numbers: Indices | None = None
        if skip_blank:
            kept = np.array([bool(self.raw(i).strip()) for i in range(len(self.starts))], bool)
            if not kept.all():
                self.numbers = np.flatnonzero(kept)
                self.starts, self.stops = self.starts[kept], self.stops[kept]

    def _scan(self) -> tuple[Indices, Indices]:
        """Where each line starts and stops, without its line end; a last line needs none."""
        size = self.path.stat().st_size
        if size == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        data = np.memmap(self.path, np.uint8, "r")
        ends = np.concatenate([np.flatnonzero(data[i : i + SCAN] == 10) + i for i in range(0, size, SCAN)]).astype(np.int64)
        if not len(ends) or ends[-1] != size - 1:
            ends = np.append(ends, size)
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        returns = (ends > starts) & (data[np.maximum(ends - 1, 0)] == 13)
        return starts, ends - returns

    def __len__(self) -> int:
        return len(self.starts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def raw(self, line: int) -> bytes:
        """The bytes of a line, counted from 0."""
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map[self.starts[line] : self.stops[line]]

    def text(self, line: int, encoding: str) -> str:
        """A decoded line. Raises DataError naming file and line."""
        try:
            return self.raw(line).decode(encoding)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.place(line)}: byte {error.object[error.start]:#04x} is not {encoding} text; "
                "say which encoding it is, such as encoding='latin-1'"
            ) from None

    def place(self, line: int) -> str:
        """`file:line`, counted from 1 as editors do."""
        number = line if self.numbers is None else int(self.numbers[line])
        return f"{self.path}:{number + 1}"

    def close(self) -> None:
        """Unmap the file; reading maps it again."""
        if self._map is not None:
            self._map.close()
            self._map = None


class _Lines(Source):
    """Lines of one or several files, one after another."""

    who = "lines"

    def __init__(self, path: PathLike | Sequence[PathLike], skip_blank: bool) -> None:
        self.files = [LineFile(p, self.who, skip_blank=skip_blank) for p in existing_files(path, self.who)]
        self.ends = np.cumsum([len(f) for f in self.files])
        if self.ends[-1] == 0:
            raise DataError(f"{self.who}: {', '.join(str(f.path) for f in self.files)} has no lines")

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _located(self, indices: Indices) -> list[tuple[LineFile, int]]:
        check_indices(indices, len(self), self.who)
        numbers = np.searchsorted(self.ends, indices, side="right")
        starts = self.ends - [len(f) for f in self.files]
        within = indices - starts[numbers]
        return [(self.files[n], i) for n, i in zip(numbers.tolist(), within.tolist(), strict=True)]

    def close(self) -> None:
        """Unmap the files."""
        for file in self.files:
            file.close()


@decorator("source")("text_lines")
class TextLines(_Lines):
    """Maps indices to lines of text files (UTF-8 unless said otherwise), as the list field `field`.

    pattern: a regular expression with named groups, each of which becomes a field, such as
    `(?P<target>\\d+) (?P<input>.*)`; a group of digits alone becomes an int64 array. Raises DataError naming file and line
    for text that cannot be decoded or a line that does not match.
    """

    who = "text_lines"

    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        field: str = "input",
        *,
        pattern: str | None = None,
        encoding: str = "utf-8",
        skip_blank: bool = False,
    ) -> None:
        super().__init__(path, skip_blank)
        self.field, self.encoding = field, encoding
        try:
            self.pattern = re.compile(pattern) if pattern is not None else None
        except re.error as error:
            raise DataError(f"text_lines: pattern {pattern!r} is not a regular expression: {error}") from None
        if self.pattern is not None and not self.pattern.groupindex:
            raise DataError(f"text_lines: pattern {pattern!r} has no named group; write (?P<input>.*) for each field")

    def __getitem__(self, indices: Indices) -> Batch:
        if self.pattern is None:
            return {self.field: [file.text(line, self.encoding) for file, line in self._located(indices)]}
        matches = [self._match(file, line) for file, line in self._located(indices)]
        return {name: _numbers([m[name] for m in matches]) for name in self.pattern.groupindex}

    def _match(self, file: LineFile, line: int) -> re.Match[str]:
        assert self.pattern is not None
        text = file.text(line, self.encoding)
        match = self.pattern.fullmatch(text)
        if match is None:
            raise DataError(f"{file.place(line)}: the line does not match {self.pattern.pattern!r}: {text[:80]!r}")
        return match

    def lengths(self, field: str, indices: Indices) -> Indices:
        """The bytes of each line, known without reading it (of the whole line, whatever the field)."""
        names = [self.field] if self.pattern is None else list(self.pattern.groupindex)
        if field not in names:
            raise DataError(f"text_lines: there is no field {field!r}; {nearest(field, names)}")
        return np.array([file.stops[line] - file.starts[line] for file, line in self._located(indices)], np.int64)


def _numbers(values: list[str]) -> Any:
    return np.array(values, np.int64) if all(v.isascii() and v.isdigit() for v in values) else values


@decorator("source")("json_lines")
class JsonLines(_Lines):
    """Maps indices to the objects of JSON-lines files, each key a field; blank lines are no records.

    fields: the keys to keep, or a mapping of field names to keys. Integers become int64, other numbers float32, lists of
    equal length arrays; text and lists of differing length stay lists. Raises DataError naming file and line.
    """

    who = "json_lines"

    def __init__(self, path: PathLike | Sequence[PathLike], fields: Mapping[str, str] | Sequence[str] | None = None) -> None:
        super().__init__(path, skip_blank=True)
        self.fields = None if fields is None else dict(fields) if isinstance(fields, Mapping) else {f: f for f in fields}

    def __getitem__(self, indices: Indices) -> Batch:
        if not len(indices):
            return {name: values[:0] for name, values in self[np.zeros(1, np.int64)].items()}
        return stack_records([self._record(file, line) for file, line in self._located(indices)], ())

    def _record(self, file: LineFile, line: int) -> dict[str, Any]:
        text = file.text(line, "utf-8")
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{file.place(line)}: this is not JSON ({error.msg} at column {error.colno})") from None
        if not isinstance(record, dict):
            raise DataError(f"{file.place(line)}: a JSON object is wanted, and a {type(record).__name__} is there")
        wanted = self.fields if self.fields is not None else {key: key for key in record}
        for key in wanted.values():
            if key not in record:
                raise DataError(f"{file.place(line)}: there is no key {key!r}; {nearest(key, record)}")
        return {name: _value(record[key]) for name, key in wanted.items()}


def _value(value: Any) -> Any:
    """A list of numbers as an array, so that it can be stacked; anything else as it is."""
    if isinstance(value, list) and value and isinstance(value[0], (int, float, list)):
        inner = stack([_value(v) for v in value])
        return inner if isinstance(inner, np.ndarray) else value
    return value


def read_text(path: Path, encoding: str) -> str:
    """A whole text file. Raises DataError naming file and line where it cannot be decoded."""
    data = path.read_bytes()
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: byte {data[error.start]:#04x} is not {encoding} text; "
            "say which encoding it is, such as encoding='latin-1'"
        ) from None
