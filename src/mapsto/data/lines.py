"""Files of lines as sources: plain text and JSON, indexed by line."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest
from ..core.registry import decorator
from .batches import batch_of
from .doors import listed, typed
from .fields import LIST, OBJECT, Field, Settling, Types
from .line_files import LineFile
from .numerals import is_word, number_of, number_said
from .paths import PathLike, existing_files
from .source import Batch, Indices, Source, check_indices


class _Lines(Source):
    """Lines of one or several files, one after another."""

    who = "lines"

    def __init__(self, path: PathLike | Sequence[PathLike], encoding: str, skip_blank: bool) -> None:
        files = existing_files(path, self.who)
        self.files = [LineFile(p, self.who, encoding=encoding, skip_blank=skip_blank) for p in files]
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
    `(?P<target>\\d+) (?P<input>.*)`; a group that is a number in every line becomes an array, int64 or float32, as the
    columns of `csv` do. types, missing: as of `csv`. Files may be compressed (.gz, .bz2, .xz, .zst). Raises DataError
    naming file and line for text that cannot be decoded or a line that does not match.
    """

    who = "text_lines"

    @typed
    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        field: str = "input",
        *,
        pattern: str | None = None,
        encoding: str = "utf-8",
        skip_blank: bool = False,
        types: Mapping[str, Any] | None = None,
        missing: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(path, encoding, skip_blank)
        self.field, self.types = field, Types("text_lines", types, missing)
        try:
            self.pattern = re.compile(pattern) if pattern is not None else None
        except re.error as error:
            raise DataError(f"text_lines: pattern {pattern!r} is not a regular expression: {error}") from None
        if self.pattern is not None and not self.pattern.groupindex:
            raise DataError(f"text_lines: pattern {pattern!r} has no named group; write (?P<input>.*) for each field")
        self.types.check([field] if self.pattern is None else list(self.pattern.groupindex))
        self._fields = {} if self.pattern is None else self._infer_fields(self.pattern)

    def _infer_fields(self, pattern: re.Pattern[str]) -> dict[str, Field]:
        settling, figures = Settling(self.types), set[str]()
        for file in self.files:
            for line in range(len(file)):
                match = self._match(file, line)
                for name in pattern.groupindex:
                    value = number_of(match[name])
                    if name not in figures and not (value is None or isinstance(value, str) or is_word(match[name])):
                        figures.add(name)
                    settling.see(name, value, functools.partial(file.place, line))
        words = [name for name, field in settling.fields.items() if name not in figures and field.kind != "object"]
        settling.fields.update(dict.fromkeys(words, OBJECT))
        return settling.done()

    def __getitem__(self, indices: Indices) -> Batch:
        located = self._located(indices)
        if self.pattern is None:
            return {self.field: [file.text(line) for file, line in located]}
        matches = [self._match(file, line) for file, line in located]
        batch: Batch = {}
        for name in self.pattern.groupindex:
            texts, field, said = [m[name] for m in matches], self._fields[name], self.types.said.get(name)
            plain = said == LIST or (said is None and field.kind == "object") or (said is not None and said.kind == "M")
            values = texts if plain else [number_of(t) if said is None else number_said(t) for t in texts]
            batch[name] = batch_of(name, field, values, self.types, lambda i: located[i][0].place(located[i][1]))
        return batch

    def _match(self, file: LineFile, line: int) -> re.Match[str]:
        assert self.pattern is not None
        text = file.text(line)
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


@decorator("source")("json_lines")
class JsonLines(_Lines):
    """Maps indices to the objects of JSON-lines files, each key a field; blank lines are no records.

    fields: the keys to keep, or a mapping of field names to keys; without it all objects have the keys of the first. A
    field has one type, settled over all files when they are opened: whole numbers become int64, other numbers float32 (or
    float64 where float32 could not hold one), lists of them arrays (a list of arrays where their shapes differ), and
    everything else stays as it is. types: field -> a NumPy type, or `text` for values as they are; missing: field -> the
    value that stands for null. Files may be compressed. Raises DataError naming file and line.
    """

    who = "json_lines"

    @typed
    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        fields: Mapping[str, str] | Sequence[str] | str | None = None,
        *,
        encoding: str = "utf-8",
        types: Mapping[str, Any] | None = None,
        missing: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(path, encoding, skip_blank=True)
        self.types, asked = Types("json_lines", types, missing), fields is not None
        names = list(self._first()) if fields is None else listed(fields)
        self.fields = dict(names) if isinstance(names, Mapping) else {f: f for f in names}
        settling = Settling(self.types)
        for file in self.files:
            for line in range(len(file)):
                parsed, place = self._parsed(file, line), functools.partial(file.place, line)
                for name, key in self.fields.items():
                    settling.see(name, self._at(parsed, name, key, place), place)
                if not asked and not parsed.keys() <= set(self.fields):
                    more = next(key for key in parsed if key not in self.fields)
                    raise DataError(f"{place()}: the key {more[:80]!r} is not in the first object: name the fields to keep")
        self._settled = settling.done(asked)

    def __getitem__(self, indices: Indices) -> Batch:
        located = self._located(indices)
        records = [self._parsed(file, line) for file, line in located]
        place = lambda i: located[i][0].place(located[i][1])  # noqa: E731
        return {
            name: batch_of(name, self._settled[name], [record.get(key) for record in records], self.types, place)
            for name, key in self.fields.items()
        }

    def _first(self) -> dict[str, Any]:
        file, line = next((file, 0) for file in self.files if len(file))
        if not (found := self._parsed(file, line)):
            raise DataError(f"{file.place(line)}: the first object has no key: name the fields to keep")
        return found

    def _at(self, record: dict[str, Any], name: str, key: str, place: Callable[[], str]) -> Any:
        """A value; a key that is absent is a missing value where something stands for one."""
        if key not in record and name not in self.types.missing:
            raise DataError(f"{place()}: there is no key {key[:80]!r}; {nearest(key, record)}")
        return record.get(key)

    def _parsed(self, file: LineFile, line: int) -> dict[str, Any]:
        text = file.text(line)
        try:
            wide = _LARGE.search(text) is not None
            record = json.loads(text, object_pairs_hook=_once, parse_float=_finite if wide else None)
        except json.JSONDecodeError as error:
            raise DataError(f"{file.place(line)}: this is not JSON ({error.msg} at column {error.colno})") from None
        except RecursionError:
            raise DataError(f"{file.place(line)}: this JSON is nested too deeply to be read") from None
        except ValueError as error:  # a number of very many digits, a key that stands twice
            raise DataError(f"{file.place(line)}: this JSON cannot be read: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{file.place(line)}: a JSON object is wanted, and a {type(record).__name__} is there")
        return record


_LARGE = re.compile(r"[eE]\+?0*[1-9][0-9]{2}|[0-9]{300}")
"""What a number beyond float64 has in it."""


def _finite(text: str) -> float:
    """A number. Raises ValueError for one beyond float64, which Python reads as infinity."""
    if math.isinf(found := float(text)):
        raise ValueError(f"{text[:40]} is a number beyond float64")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once. Raises ValueError."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)[:80]!r} stands twice in one object")
    return made
