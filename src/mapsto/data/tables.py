"""Tables as sources: Parquet and Arrow files, Arrow tables in memory, CSV."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..core.errors import DataError, nearest, require
from ..core.registry import decorator
from .columns import Column, column_of, filled, is_plain, joined
from .compressed import inner_suffix
from .delimited import Delimited, Unread, said, settled
from .doors import listed, typed
from .fields import LIST, Types
from .paths import PathLike, existing_files
from .source import Batch, Indices, Source, check_indices, field_of

Fields: TypeAlias = Mapping[str, str] | Sequence[str] | str | None


class ArrowTable(Source):
    """Maps indices to rows of a pyarrow table: numbers as arrays, text as lists of `str`, lists as arrays.

    Lists of lists of one shape are arrays too, tensors of a fixed shape keep it; lists of lists whose shapes differ, or that
    lack a number, stay lists of Python.

    fields: the columns to keep, or a mapping of field names to columns. Types are the table's, or said: types, field -> a
    NumPy type. A missing number is NaN in a float column; among whole numbers or truth values it is an error where the
    column is asked for by name, and else the column is a list with None; a missing text is None. missing: field -> the
    value that stands for it. Raises DataError with the nearest column name.
    """

    who = "table"

    def __init__(
        self,
        table: Any,
        fields: Fields = None,
        *,
        types: Mapping[str, Any] | None = None,
        missing: Mapping[str, Any] | None = None,
    ) -> None:
        self._fields, self._types = fields, Types(self.who, types, missing)
        self._fill(table)

    def _fill(self, table: Any, place: Callable[[int], str] | None = None) -> None:
        names = table.column_names
        pairs = _pairs(self._fields, names)
        asked = {} if self._fields is None else pairs
        self._types.check(pairs)
        self.columns: dict[str, Column] = {}
        for field, name in pairs.items():
            if name not in names:
                raise DataError(f"{self.who}: there is no column {name!r}; {nearest(name, names)}")
            if names.count(name) > 1:
                raise DataError(f"{self.who}: two columns are named {name!r}")
            where = place or functools.partial("{}: row {}".format, self.who)
            column, what = self._typed(field, table.column(name), where), f"{self.who}: column {name!r}"
            if field in self._types.missing and column.null_count:
                column = filled(column, self._types.missing[field], what)
            told = self._types.said.get(field)
            known = field in asked or isinstance(told, np.dtype)
            self.columns[field] = column_of(column, what, told, where if known else None)
        self._count: int = table.num_rows
        if self._count == 0:
            raise DataError(f"{self.who}: there are no rows: a source needs at least one record")

    def _typed(self, field: str, column: Any, place: Callable[[int], str]) -> Any:  # noqa: ARG002
        """The column in the type that its file does not tell."""
        return column

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, self._count, self.who)
        return {field: column.take(indices) for field, column in self.columns.items()}

    def field_values(self, field: str, indices: Indices) -> Any:
        """One field of records. Raises DataError where there is no such field."""
        check_indices(indices, self._count, self.who)
        return field_of(self.columns, field, self.who).take(indices)

    def lengths(self, field: str, indices: Indices) -> Indices:
        """The length of each record of a field (of text in bytes), without making Python objects."""
        if field not in self.columns:
            raise DataError(f"{self.who}: there is no field {field!r}; {nearest(field, self.columns)}")
        return self.columns[field].lengths(indices, field)


def _pairs(fields: Fields, names: Sequence[str]) -> dict[str, str]:
    """Field names -> columns."""
    wanted = names if fields is None else listed(fields)
    return dict(wanted) if isinstance(wanted, Mapping) else dict(zip(wanted, wanted, strict=True))


class _ArrowFile(ArrowTable):
    """A table that is read from files, and read again rather than sent where a worker process needs it."""

    @typed
    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        fields: Fields = None,
        *,
        types: Mapping[str, Any] | None = None,
        missing: Mapping[str, Any] | None = None,
    ) -> None:
        require("pyarrow", "arrow", f"the source `{self.who}`")
        self.paths = existing_files(path, self.who)
        self._fields, self._types = fields, Types(self.who, types, missing)
        self._open()

    def _open(self) -> None:
        arrow = require("pyarrow", "arrow", f"the source `{self.who}`")
        tables = []
        for path in self.paths:
            try:
                tables.append(self._sound(self._read(path)))
            except (arrow.ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:
                raise DataError(f"{self.who}: {path} cannot be read: {error}") from error
        self._fill(tables[0] if len(tables) == 1 else joined(tables, self.paths, self.who))

    def _sound(self, table: Any) -> Any:
        """The table, whose offsets and text are checked once: damaged ones would be followed out of the file's memory."""
        wanted = set(_pairs(self._fields, table.column_names).values())
        for name, column in zip(table.column_names, table.columns, strict=True):
            if name in wanted:
                column.validate(full=not (is_plain(column.type)))
        return table

    def _read(self, path: Path) -> Any:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "columns"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


@decorator("source")("parquet")
class Parquet(_ArrowFile):
    """Maps indices to rows of Parquet files, decoded into memory once; see `ArrowTable` for fields and types."""

    who = "parquet"

    def _read(self, path: Path) -> Any:
        parquet = require("pyarrow.parquet", "arrow", "the source `parquet`")
        if self._fields is None:
            return parquet.read_table(path, memory_map=True)
        names = list(_pairs(self._fields, ()).values())
        there = parquet.read_schema(path).names
        return parquet.read_table(path, columns=[n for n in names if n in there] or None, memory_map=True)


@decorator("source")("arrow")
class Arrow(_ArrowFile):
    """Maps indices to rows of Arrow IPC files (file or stream format), memory-mapped; see `ArrowTable`."""

    who = "arrow"

    def _read(self, path: Path) -> Any:
        arrow = require("pyarrow", "arrow", "the source `arrow`")
        mapped = arrow.memory_map(str(path))
        try:
            return arrow.ipc.open_file(mapped).read_all()
        except arrow.ArrowInvalid:
            mapped.seek(0)
            return arrow.ipc.open_stream(mapped).read_all()


@decorator("source")("csv")
class Csv(_ArrowFile):
    """Maps indices to rows of CSV files with a header, read into memory by pyarrow.

    fields: the columns to keep, or a mapping of field names to columns; delimiter: a tab for files that end in .tsv, else
    a comma; quotes: whether `"` encloses cells (else it is text as any other). A column in which every cell is a number
    becomes int64, or float32 where some are not whole (float64 where float32 could not hold one); any other stays text,
    `1_0`, `007`, `+1`, `0x10`, `True` and dates among it. An empty cell is missing: NaN among fractions; an error among
    whole numbers that are asked for by name, and None among those that come with the others. types: field -> `text` or a
    NumPy type; missing: field -> the value of its empty cells.

    Files may be compressed (.gz, .bz2, .xz, .zst). Raises DataError naming file and line, or the nearest column.
    """

    who = "csv"

    @typed
    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        fields: Fields = None,
        *,
        delimiter: str | None = None,
        quotes: bool = True,
        encoding: str = "utf-8",
        types: Mapping[str, Any] | None = None,
        missing: Mapping[str, Any] | None = None,
    ) -> None:
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n' or not delimiter.isascii()):
            raise DataError(f"csv: delimiter {delimiter!r} is no single character that separates cells")
        self._delimiter, self._quotes, self._encoding = delimiter, quotes, encoding
        super().__init__(path, fields, types=types, missing=missing)

    def _open(self) -> None:
        arrow = require("pyarrow", "arrow", "the source `csv`")
        tabs = [inner_suffix(p) in (".tsv", ".tab") for p in self.paths]
        files = [
            Delimited(p, self._delimiter or ("\t" if tab else ","), self._encoding, self._quotes)
            for p, tab in zip(self.paths, tabs, strict=True)
        ]
        tables = []
        for file in files:
            names = list(dict.fromkeys(_pairs(self._fields, files[0].header).values()))
            for name in names:
                if name not in file.header:
                    raise DataError(f"csv: {file.path} has no column {name!r}; {nearest(name, file.header)}")
            if self._fields is None and (more := [n for n in file.header if n not in names]):
                raise DataError(
                    f"csv: {file.path} has a column {more[0]!r}, which {files[0].path} has not: name the fields to keep"
                )
            tables.append(file.table(names))
            file.release()
        ends = np.cumsum([t.num_rows for t in tables])

        def place(row: int) -> str:
            which = int(np.searchsorted(ends, row, side="right"))
            return f"{files[which].path}:{files[which].line(row - (int(ends[which - 1]) if which else 0))}"

        self._fill(tables[0] if len(tables) == 1 else arrow.concat_tables(tables), place)

    def _typed(self, field: str, column: Any, place: Callable[[int], str]) -> Any:
        kind = self._types.said.get(field)
        column = column.combine_chunks()
        if kind == LIST:
            return column
        try:
            return settled(column) if kind is None else said(column, kind)
        except Unread as reason:
            tell = f"types: {{{field}: text}}"
            raise DataError(f"{place(reason.row)}: column {field!r} holds {reason.said}; say its type, {tell}") from None
