"""Files of predictions, one record each: JSON lines, CSV, Parquet. They exist whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, SpecError, nearest, require

Batch = Mapping[str, Any]
Write = Callable[[Batch], int]
"""Appends a batch of predictions and says how many records those are."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Write]:
    """Within it, the function that appends batches; the file takes its name at the end, or leaves nothing behind.

    Raises SpecError where the ending names no format or the folder is missing.
    """
    if path.suffix not in FORMATS:
        ending = repr(path.suffix) if path.suffix else "a file without an ending"
        raise SpecError(f"--output: {ending} is no format for predictions; {nearest(path.suffix, FORMATS)}")
    if not path.parent.is_dir():
        raise SpecError(f"--output: there is no folder {path.parent}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with FORMATS[path.suffix](temporary) as write:
            yield lambda batch: _checked(write, batch)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _checked(write: Callable[[Batch, int], None], batch: Batch) -> int:
    """Hand a batch on with its number of records. Raises DataError where its fields differ in it."""
    counts = {name: len(values) for name, values in batch.items()}
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items()) or "there is no field"
        raise DataError(f"the fields of a prediction must be equally many records: {told}")
    count = next(iter(counts.values()))
    write(batch, count)
    return count


@contextlib.contextmanager
def json_lines(path: Path) -> Iterator[Callable[[Batch, int], None]]:
    """An object a record; a number that is not finite is null, since JSON has no word for it."""
    with open(path, "x", encoding="utf-8") as file:

        def write(batch: Batch, count: int) -> None:
            columns = {name: _listed(values) for name, values in batch.items()}
            for i in range(count):
                record = {name: values[i] for name, values in columns.items()}
                file.write(json.dumps(record, ensure_ascii=False, default=_plain) + "\n")

        yield write


@contextlib.contextmanager
def comma_separated(path: Path) -> Iterator[Callable[[Batch, int], None]]:
    """A column a field, or one a number of an array: `probability.0`, `probability.1`, ..."""
    with open(path, "x", encoding="utf-8", newline="") as file:
        rows, heads = csv.writer(file), list[str]()

        def write(batch: Batch, count: int) -> None:
            columns = [column for name, values in batch.items() for column in _columns(name, values, count)]
            names = [name for name, _ in columns]
            if not heads:
                heads.extend(names)
                rows.writerow(names)
            if names != heads:
                raise DataError(f"the predictions change their shape ({heads}, then {names}): write .jsonl or .parquet instead")
            rows.writerows(zip(*(values for _, values in columns), strict=True))

        yield write


@contextlib.contextmanager
def parquet(path: Path) -> Iterator[Callable[[Batch, int], None]]:
    """A column a field, arrays as lists; the first batch fixes the types."""
    arrow = require("pyarrow", "arrow", "writing .parquet")
    files = require("pyarrow.parquet", "arrow", "writing .parquet")
    with contextlib.ExitStack() as stack:
        opened: list[Any] = []

        def write(batch: Batch, count: int) -> None:  # noqa: ARG001  # the signature that every format owes
            table = arrow.table({name: _arrow(arrow, values) for name, values in batch.items()})
            if not opened:
                opened.append(stack.enter_context(files.ParquetWriter(path, table.schema)))
            try:
                opened[0].write_table(table.cast(opened[0].schema))
            except (arrow.ArrowException, ValueError) as error:
                raise DataError(f"the predictions change their type ({error}): write .jsonl instead") from None

        yield write
        if not opened:
            raise DataError("there is nothing to write: no batch was predicted")


FORMATS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Callable[[Batch, int], None]]]] = {
    ".csv": comma_separated,
    ".jsonl": json_lines,
    ".parquet": parquet,
}


def _plain(value: Any) -> Any:
    """A date as text, a file's bytes not at all: for what JSON has no word."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise DataError(f"a {type(value).__name__} cannot be written as JSON: leave that field out of --keep")


def _listed(values: Any) -> Any:
    """An array, or a list of arrays, as (nested) lists of plain values."""
    if not isinstance(values, np.ndarray):
        return [_listed(v) if isinstance(v, np.ndarray) else v for v in values]
    if values.dtype.kind != "f" or (finite := np.isfinite(values)).all():
        return values.tolist()
    plain = values.astype(object)
    plain[~finite] = None
    return plain.tolist()


def _columns(name: str, values: Any, count: int) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, np.ndarray) or values.ndim == 1:
        plain = values.tolist() if isinstance(values, np.ndarray) else values
        yield name, [json.dumps(_listed(v)) if isinstance(v, (np.ndarray, list, dict)) else v for v in plain]
        return
    flat = values.reshape(count, -1)
    shape = values.shape[1:]
    for i in range(flat.shape[1]):
        yield ".".join([name, *map(str, np.unravel_index(i, shape))]), flat[:, i].tolist()


def _arrow(arrow: Any, values: Any) -> Any:
    """A column; the numbers of an array stay together, so that a list column costs no Python object a number."""
    if not isinstance(values, np.ndarray) or values.ndim == 1:
        return arrow.array(values)
    column = arrow.array(values.reshape(-1))
    for axis in reversed(range(1, values.ndim)):
        length = values.shape[axis]
        rows = len(column) // length if length else int(np.prod(values.shape[:axis]))
        column = arrow.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * length, column)
    return column
