"""Files of separated cells: bytes -> a pyarrow table of text, with file and line in every error; columns of text -> numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core.errors import DataError, require
from .compressed import opened
from .line_files import read_text, refuse_utf16, utf8_of
from .numerals import REAL_TEXT, WHOLE_TEXT, WORD_TEXT, is_word, number_of, number_said

BLOCK = 1 << 23
QUOTES = " (quotes=False where a quote is text and encloses no cell)"


class Delimited:
    """One file: its header, and the columns that are asked for as a table of text. Raises DataError naming file and line."""

    def __init__(self, path: Path, delimiter: str, encoding: str, quotes: bool = True) -> None:
        self.path, self.delimiter, self.encoding, self.quotes = path, delimiter, encoding, quotes
        self.data = self._bytes()
        self.header = next(self._rows(), (1, []))[1]
        if not self.header:
            raise DataError(f"csv: {path} has no rows and no header")
        twice = next((name for name in self.header if self.header.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"csv: {path}: two columns are named {twice[:80]!r}")

    def _bytes(self) -> bytes:
        """The file as UTF-8."""
        with opened(self.path, "csv") as file:
            data = file.read()
        if (other := utf8_of(self.encoding, "csv")) is not None:
            return read_text(self.path, other, "csv").encode("utf-8", "surrogatepass")
        refuse_utf16(data, self.path)
        return data

    def table(self, names: Sequence[str]) -> Any:
        """The columns of these names, in their order, every cell as text."""
        arrow = require("pyarrow", "arrow", "the source `csv`")
        reading = require("pyarrow.csv", "arrow", "the source `csv`")
        wanted = [f"f{self.header.index(name)}" for name in names]
        convert = reading.ConvertOptions(
            column_types={f"f{i}": arrow.large_string() for i in range(len(self.header))},
            include_columns=wanted,
            strings_can_be_null=False,
        )
        parse = reading.ParseOptions(
            delimiter=self.delimiter, newlines_in_values=self.quotes, quote_char='"' if self.quotes else False
        )
        if self.quotes and self.data.count(b'"') % 2:
            self._check_quotes()
        for size in (BLOCK, max(min(len(self.data) + 1, 2**31 - 1), BLOCK)):  # a row must lie within one block
            read = reading.ReadOptions(autogenerate_column_names=True, use_threads=False, block_size=size)
            try:
                table = reading.read_csv(io.BytesIO(self.data), read, parse, convert).slice(1)
                break
            except (arrow.ArrowException, OverflowError) as error:
                if "straddl" in str(error) and size < len(self.data):
                    continue
                raise self._explained(error) from error
        if table.num_rows == 0:
            raise DataError(f"csv: {self.path} has no rows")
        return table.select(wanted).rename_columns(list(names))

    def line(self, row: int) -> int:
        """The line, counted from 1, in which a row of the table starts."""
        for number, (line, _) in enumerate(self._rows()):
            if number == row + 1:
                return line
        return row + 2

    def release(self) -> None:
        """Let go of the file's content, and read it again where it is asked for."""
        self.data = b""

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """(the line in which it starts, its cells) of every row that is not blank, as Python's reader sees them."""
        data = self.data or self._bytes()
        before = csv.field_size_limit(2**31 - 1)
        try:
            text = io.TextIOWrapper(io.BytesIO(data), "utf-8", errors="replace", newline="")
            if data.startswith(b"\xef\xbb\xbf"):
                text.read(1)
            reader, line = csv.reader(text, delimiter=self.delimiter, quoting=self._quoting), 1
            for row in reader:
                if row:
                    yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{self.path}:{line}: {error}") from None
        finally:
            csv.field_size_limit(before)

    @property
    def _quoting(self) -> Literal[0, 3]:
        return csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE

    def _check_quotes(self) -> None:
        """Raise DataError where a quote is not closed: all that follows would be one cell."""
        before, line = csv.field_size_limit(2**31 - 1), 1
        try:
            text = io.TextIOWrapper(io.BytesIO(self.data), "utf-8", errors="replace", newline="")
            reader = csv.reader(text, delimiter=self.delimiter, strict=True)
            for _ in reader:
                line = reader.line_num + 1
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise DataError(f"{self.path}:{line}: a quoted cell begins in this row and never ends{QUOTES}") from None
        finally:
            csv.field_size_limit(before)

    def _explained(self, error: Exception) -> DataError:
        """What pyarrow refused, with the line in which it stands."""
        rows = 0
        for line, row in self._rows():
            rows += 1
            if len(row) != len(self.header):
                quotes = QUOTES if any('"' in cell or "\n" in cell for cell in row) else ""
                return DataError(f"{self.path}:{line}: the row has {len(row)} cells, and the header {len(self.header)}{quotes}")
        if rows == 1:
            return DataError(f"csv: {self.path} has no rows")
        try:
            self.data.decode("utf-8")
        except UnicodeDecodeError as bad:
            line = self.data.count(b"\n", 0, bad.start) + 1
            said = "such as encoding='latin-1'"
            return DataError(
                f"{self.path}:{line}: byte {self.data[bad.start]:#04x} is not utf-8 text; say its encoding, {said}"
            )
        return DataError(f"csv: {self.path} cannot be read: {error}")


# -- columns of text -------------------------------------------------------------------------------------------------------
class Unread(Exception):
    """A cell that is no value of its column's type: (row, what is wrong)."""

    def __init__(self, row: int, said: str) -> None:
        super().__init__(said)
        self.row, self.said = row, said


def settled(column: Any) -> Any:
    """A column of text as int64, float32, or float64 where float32 could not hold a value, if every cell is a number; an
    empty cell is missing. Else as it is. Raises Unread for a whole number that the type would not keep.
    """
    arrow, compute = require("pyarrow", "arrow", "csv"), require("pyarrow.compute", "arrow", "csv")

    def matches(pattern: str) -> Any:
        return compute.match_substring_regex(column, f"^(?:{pattern})$")

    empty, whole = matches(r"[ \t]*"), matches(WHOLE_TEXT)
    others = compute.invert(compute.or_(empty, whole))
    if compute.any(others).as_py():
        real = compute.or_(whole, matches(REAL_TEXT))
        if not compute.all(compute.or_(compute.or_(empty, real), matches(WORD_TEXT))).as_py() or not compute.any(real).as_py():
            return column
    elif not compute.any(whole).as_py():
        return column
    trimmed = compute.utf8_trim(column, " \t")
    trimmed = compute.if_else(compute.equal(trimmed, ""), arrow.scalar(None, trimmed.type), trimmed)
    if not compute.any(others).as_py():
        try:
            return trimmed.cast(arrow.int64())
        except arrow.ArrowInvalid:
            raise Unread(
                _first(column, lambda n: isinstance(n, int) and not -(2**63) <= n < 2**63), "a whole number beyond int64"
            ) from None
    if compute.any(matches(r"[ \t]*-?[0-9]{16,}[ \t]*")).as_py():
        inexact = _first(column, lambda n: isinstance(n, int) and (abs(n) >= 10**300 or int(float(n)) != n))
        if inexact >= 0:
            raise Unread(inexact, "a whole number beyond 2^53 among fractions, which no floating-point type keeps")
    doubles = compute.replace_substring_regex(trimmed, r"^\+", "").cast(arrow.float64())
    values = doubles.to_numpy(zero_copy_only=False)
    if np.isinf(values).any() and (beyond := [i for i in np.flatnonzero(np.isinf(values)) if not is_word(column[i].as_py())]):
        raise Unread(int(beyond[0]), "a number beyond float64")
    with np.errstate(over="ignore", invalid="ignore"):
        size, singles = np.abs(values), values.astype(np.float32)
        lost = (size >= 2**24) & np.isfinite(values) & (singles.astype(np.float64) != values)
        lost |= (size > 0) & (size < np.finfo(np.float32).tiny)
    return doubles if lost.any() else arrow.array(singles, mask=doubles.is_null().to_numpy(zero_copy_only=False))


def _first(column: Any, wrong: Any) -> int:
    """The first row whose number is wrong, or -1."""
    return next((i for i, text in enumerate(column.to_pylist()) if wrong(number_of(text))), -1)


def said(column: Any, dtype: np.dtype[Any]) -> Any:
    """A column of text in a type that was said, an empty cell missing. Raises Unread where a cell is none of it."""
    arrow = require("pyarrow", "arrow", "csv")
    found = np.zeros(len(column), dtype)
    lacking = np.zeros(len(column), bool)
    for row, text in enumerate(column.to_pylist()):
        value = number_said(text) if dtype.kind != "M" else (text.strip(" \t") or None)
        if value is None:
            lacking[row] = True
            continue
        try:
            if isinstance(value, str) and dtype.kind != "M":
                raise ValueError
            with np.errstate(over="ignore"):
                found[row] = value
            if dtype.kind in "iub" and found[row] != value:
                raise ValueError
            if dtype.kind == "f" and np.isinf(found[row]) and np.isfinite(np.float64(value)):
                raise ValueError
        except (ValueError, OverflowError, TypeError):
            raise Unread(row, f"{text!r}, which is not {dtype}") from None
    return arrow.array(found, mask=lacking)
