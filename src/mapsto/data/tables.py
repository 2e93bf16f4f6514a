"""Tables as sources: Parquet and Arrow files, Arrow tables in memory, CSV."""

from __future__ import annotations

import csv as csv_module
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..core.errors import DataError, nearest, require
from ..core.registry import decorator
from .arrays import Arrays
from .columns import Column, column_of
from .paths import PathLike, existing_file, existing_files
from .source import Batch, Indices, Source, check_indices

Fields: TypeAlias = Mapping[str, str] | Sequence[str] | None


class ArrowTable(Source):
    """Maps indices to rows of a pyarrow table: numbers as arrays, text as lists of `str`, lists as arrays.

    fields: the columns to keep, or a mapping of field names to columns. A missing number is NaN in a float column and an
    error in any other; a missing text is None. Raises DataError with the nearest column name.
    """

    who = "table"

    def __init__(self, table: Any, fields: Fields = None) -> None:
        self._fields = fields
        self._fill(table)

    def _fill(self, table: Any) -> None:
        names = table.column_names
        wanted = names if self._fields is None else self._fields
        pairs = wanted.items() if isinstance(wanted, Mapping) else zip(wanted, wanted, strict=True)
        self.columns: dict[str, Column] = {}
        for field, name in pairs:
            if name not in names:
                raise DataError(f"{self.who}: there is no column {name!r}; {nearest(name, names)}")
            self.columns[field] = column_of(table.column(name), f"{self.who}: column {name!r}")
        self._count: int = table.num_rows
        if self._count == 0:
            raise DataError(f"{self.who}: there are no rows: a source needs at least one record")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, self._count, self.who)
        return {field: column.take(indices) for field, column in self.columns.items()}

    def lengths(self, field: str, indices: Indices) -> Indices:
        """The length of each record of a field (of text in bytes), without making Python objects."""
        if field not in self.columns:
            raise DataError(f"{self.who}: there is no field {field!r}; {nearest(field, self.columns)}")
        return self.columns[field].lengths(indices, field)


class _ArrowFile(ArrowTable):
    """A table that is read from files, and read again rather than sent where a worker process needs it."""

    def __init__(self, path: PathLike | Sequence[PathLike], fields: Fields = None) -> None:
        require("pyarrow", "arrow", f"the source `{self.who}`")
        self.paths = existing_files(path, self.who)
        self._fields = fields
        self._open()

    def _open(self) -> None:
        arrow = require("pyarrow", "arrow", f"the source `{self.who}`")
        tables = []
        for path in self.paths:
            try:
                tables.append(self._read(path))
            except (arrow.ArrowException, OSError) as error:
                raise DataError(f"{self.who}: {path} cannot be read: {error}") from error
        self._fill(tables[0] if len(tables) == 1 else arrow.concat_tables(tables, promote_options="default"))

    def _read(self, path: Path) -> Any:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_fields": self._fields}

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
        names = list(self._fields.values() if isinstance(self._fields, Mapping) else self._fields)
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
class Csv(Arrays):
    """Maps indices to rows of a CSV file with a header, read into memory: whole numbers int64, others float32, text lists.

    fields: the columns to keep, or a mapping of field names to columns; an empty cell in a column of numbers is NaN.
    Raises DataError naming file and line of a row with too few or many cells, or the nearest column name.
    """

    def __init__(self, path: PathLike, fields: Fields = None, *, delimiter: str = ",", encoding: str = "utf-8") -> None:
        file = existing_file(path, "csv")
        header, rows = _read_csv(file, delimiter, encoding)
        wanted = header if fields is None else fields
        pairs = wanted.items() if isinstance(wanted, Mapping) else zip(wanted, wanted, strict=True)
        columns = {}
        for field, name in pairs:
            if name not in header:
                raise DataError(f"csv: {file} has no column {name!r}; {nearest(name, header)}")
            at = header.index(name)
            columns[field] = _parsed([row[at] for row in rows])
        super().__init__(**columns)


def _read_csv(file: Path, delimiter: str, encoding: str) -> tuple[list[str], list[list[str]]]:
    try:
        with file.open(newline="", encoding=encoding) as opened:
            reader = csv_module.reader(opened, delimiter=delimiter)
            header = next(reader, [])
            rows = []
            for row in reader:
                if len(row) != len(header) and row:
                    raise DataError(f"{file}:{reader.line_num}: the row has {len(row)} cells, and the header {len(header)}")
                if row:
                    rows.append(row)
    except UnicodeDecodeError as error:
        raise DataError(f"csv: {file} is not {encoding} text ({error.reason} at byte {error.start})") from None
    except csv_module.Error as error:
        raise DataError(f"{file}:{reader.line_num}: {error}") from None
    if not rows:
        raise DataError(f"csv: {file} has no rows{'' if header else ' and no header'}")
    return header, rows


def _parsed(cells: list[str]) -> Any:
    """A column as numbers where every cell is one, else as text."""
    try:
        return np.array([int(c) for c in cells], np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        return np.array([float(c) if c.strip() else np.nan for c in cells], np.float32)
    except ValueError:
        return cells
