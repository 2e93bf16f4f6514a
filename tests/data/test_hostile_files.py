"""Hostile data files, drawn by a seed: what is accepted has the values that an independent reader finds, in any split into
batches; anything else is one error that names the file."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import assert_splits_agree, compressed

from mapsto.core.errors import DataError
from mapsto.data import Arrays, Arrow, Concatenated, Csv, JsonLines, Parquet, TextLines
from mapsto.data.arrays import npz_arrays

pa = pytest.importorskip("pyarrow")
Rng = np.random.Generator
CELLS = (
    *("1", "-7", "0", "2.5", "1e5", ".5", "nan", "inf", "", " ", " 7", "+1", "1_0", "0x10", "007", "True", "2024-02-29", "NA"),
    *("a", "é", "a b", "9007199254740993", "9223372036854775807", "9223372036854775808", "1e300", "16777217", "x" * 5000),
    *('say "so"', "two\nlines", "a,b", "a\tb", "\0", "\u2028", "-", "--1", "1e", "١", "1.", "1.2.3", "null", "'", "=1+1"),
)
FAMILIES = (("1", "-7", "0", "42"), ("2.5", "1e5", ".5", "-0.25", "3"), ("1", "", "7"), ("0.5", "", "nan"), CELLS)
JSON = (
    1,
    -7,
    0,
    2.5,
    1e300,
    True,
    False,
    None,
    "a",
    "",
    "é",
    [],
    [1, 2],
    [3, 4],
    [0.5, 1],
    [[1], [2]],
    {"k": [1]},
    2**53 + 1,
    2**70,
)
JSON_FAMILIES = (
    (1, 2, 3),
    (1, 0.5, 2),
    (True, False),
    ("a", "b"),
    ([1, 2], [3, 4]),
    ([1], [2, 3]),
    (1, None),
    (0.5, None),
    JSON,
)


# -- valid files -----------------------------------------------------------------------------------------------------------
def pick(rng: Rng, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def delimited(rng: Rng, delimiter: str) -> bytes:
    names = [f"c{i}" for i in range(int(rng.integers(1, 5)))]
    families = [pick(rng, FAMILIES) for _ in names]
    out = io.StringIO(newline="")
    quoting = pick(rng, (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=pick(rng, ("\n", "\r\n", "\r")))
    writer.writerow(names)
    writer.writerows([pick(rng, family) for family in families] for _ in range(int(rng.integers(1, 9))))
    return out.getvalue().encode()


def objects(rng: Rng) -> bytes:
    families = {f"k{i}": pick(rng, JSON_FAMILIES) for i in range(int(rng.integers(1, 4)))}
    rows = [{name: pick(rng, family) for name, family in families.items()} for _ in range(int(rng.integers(1, 8)))]
    return "\n".join(json.dumps(row, ensure_ascii=bool(rng.integers(2))) for row in rows).encode()


def lines(rng: Rng) -> bytes:
    end = pick(rng, ("\n", "\r\n", "\r"))
    return end.join(re.sub(r"[\r\n]", "", pick(rng, CELLS)) for _ in range(int(rng.integers(1, 9)))).encode()


def table(rng: Rng, kind: str) -> bytes:
    import pyarrow.feather
    import pyarrow.parquet

    columns = (
        pa.array([1, None, 3], pa.int32()),
        pa.array([1, 2, 3], pa.int64()),
        pa.array([2**63, 1, 2], pa.uint64()),
        pa.array([0.5, None, 1]),
        pa.array([1.5, 2, 3], pa.float16()),
        pa.array(["a", None, ""]),
        pa.array(["p", "q", "p"]).dictionary_encode(),
        pa.array([True, None, False]),
        pa.array([[1], [], None]),
        pa.array([[1, None], [2], []]),
        pa.array([b"\xff", b"", None]),
        pa.array([{"x": 1}, None, {"x": 2}]),
        pa.array([1, 2, None], pa.date32()),
        pa.array([None] * 3),
    )
    chosen = {f"f{i}": pick(rng, columns) for i in range(int(rng.integers(1, 5)))}
    out = io.BytesIO()
    write = pyarrow.parquet.write_table if kind == "parquet" else pyarrow.feather.write_feather
    write(pa.table(chosen), out)
    return out.getvalue()


def arrays(rng: Rng) -> bytes:
    columns = (
        np.arange(3), np.array([0.5, np.nan, 1.0]), np.array(["a", "b", "ccc"]), np.array([True, False, True]),
        np.zeros((3, 2, 2)), np.array([1, 2**63, 1], np.uint64), np.array([b"x", b"y", b"z"]), np.zeros((3, 0), np.float32),
    )  # fmt: skip
    out = io.BytesIO()
    save = pick(rng, (np.savez, np.savez_compressed))
    save(out, **{f"f{i}": pick(rng, columns) for i in range(int(rng.integers(1, 4)))})
    return out.getvalue()


def joined(path: Path) -> Any:
    """The file after itself, and after one of whole numbers where its columns are numbers."""
    first = Csv(path)
    names = first[np.zeros(1, np.int64)]
    numbers = all(getattr(values, "dtype", np.dtype("U")).kind in "if" for values in names.values())
    other = Arrays(**{name: np.arange(2) for name in names}) if numbers else first
    return Concatenated([first, other])


MAKERS: dict[str, Callable[[Rng], bytes]] = {
    "csv": lambda rng: delimited(rng, ","),
    "tsv": lambda rng: delimited(rng, "\t"),
    "jsonl": objects,
    "txt": lines,
    "parquet": lambda rng: table(rng, "parquet"),
    "arrow": lambda rng: table(rng, "arrow"),
    "npz": arrays,
    "joined": lambda rng: delimited(rng, ","),
}
SOURCES: dict[str, Any] = {"csv": Csv, "tsv": Csv, "jsonl": JsonLines, "txt": TextLines, "parquet": Parquet, "arrow": Arrow}
SOURCES |= {"npz": lambda path: Arrays(**npz_arrays(path)), "joined": joined}


# -- what befalls them -----------------------------------------------------------------------------------------------------
def inserted(rng: Rng, data: bytes, what: bytes) -> bytes:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + what + data[at:]


def flipped(rng: Rng, data: bytes) -> bytes:
    broken = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        broken[int(rng.integers(len(broken)))] = int(rng.integers(256))
    return bytes(broken)


HARMS: tuple[tuple[str, Callable[[Rng, bytes], bytes]], ...] = (
    ("nothing", lambda rng, data: data),
    ("nothing", lambda rng, data: data),
    ("mark", lambda rng, data: b"\xef\xbb\xbf" + data),
    ("cut", lambda rng, data: data[: int(rng.integers(len(data) + 1))]),
    ("flipped bytes", flipped),
    ("random bytes", lambda rng, data: rng.bytes(int(rng.integers(300)))),
    ("a NUL", lambda rng, data: inserted(rng, data, b"\0")),
    ("another encoding", lambda rng, data: inserted(rng, data, pick(rng, (b"\xe9", b"\xff\xfe", "é".encode("utf-16"))))),
    ("structure", lambda rng, data: inserted(rng, data, pick(rng, (b'"', b",", b"\n", b"\r", b"{", b"]", b"\t", b"\\")))),
    ("deep", lambda rng, data: inserted(rng, data, b"[" * 20_000)),
    ("long number", lambda rng, data: inserted(rng, data, b"9" * 6_000)),
    ("twice", lambda rng, data: data + data),
)


# -- independent readers: the columns, or None where the file is invalid ------------------------------------------------------
def read_delimited(data: bytes, delimiter: str) -> dict[str, list[Any]] | None:
    try:
        text = data.decode("utf-8-sig")
        csv.field_size_limit(10**9)
        head, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except (ValueError, csv.Error):
        return None
    if not rows or len(set(head)) < len(head) or any(len(row) != len(head) for row in rows):
        return None
    return {name: [row[i] for row in rows] for i, name in enumerate(head)}


def read_objects(data: bytes) -> dict[str, list[Any]] | None:
    try:
        text = data.decode("utf-8-sig")
        rows = [json.loads(line) for line in re.split("\r?\n" if "\n" in text else "\r", text) if line.encode().strip()]
    except (ValueError, RecursionError):
        return None
    if not rows or any(not isinstance(row, dict) or row.keys() != rows[0].keys() for row in rows):
        return None
    return {name: [row[name] for row in rows] for name in rows[0]}


def read_lines(data: bytes) -> dict[str, list[Any]] | None:
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except ValueError:
        return None
    found = re.split("\r?\n" if "\n" in text else "\r", text)
    if found[-1] == "":
        found.pop()
    elif "\n" in text:
        found[-1] = found[-1].removesuffix("\r")
    return {"input": found} if found else None


def read_table(data: bytes, kind: str) -> dict[str, list[Any]] | None:
    import pyarrow.parquet

    try:
        if kind == "parquet":
            found = pyarrow.parquet.read_table(io.BytesIO(data))
        else:
            found = pa.ipc.open_file(io.BytesIO(data)).read_all()
        found.validate(full=True)
        return found.to_pydict() if found.num_rows and len(set(found.column_names)) == found.num_columns else None
    except (pa.ArrowException, OSError, ValueError):
        return None


def read_arrays(data: bytes) -> dict[str, list[Any]] | None:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            columns = {name: found[name] for name in found.files}
    except Exception:  # whatever NumPy and zipfile make of it
        return None
    fits = columns and all(v.ndim for v in columns.values()) and len({len(v) for v in columns.values()} - {0}) == 1
    return {name: list(v) for name, v in columns.items()} if fits else None


def reference(kind: str, data: bytes) -> dict[str, list[Any]] | None:
    if kind in ("csv", "tsv"):
        return read_delimited(data, "," if kind == "csv" else "\t")
    if kind in ("npz", "joined"):
        return read_arrays(data) if kind == "npz" else read_delimited(data, ",")
    return read_objects(data) if kind == "jsonl" else read_lines(data) if kind == "txt" else read_table(data, kind)


def assert_same(got: Any, want: list[Any], text: bool) -> None:
    """A field against the reference's values, which are cells of text for CSV."""
    assert len(got) == len(want)
    numbers = hasattr(got, "dtype") or (isinstance(got, list) and not any(isinstance(g, (str, bytes)) for g in got))
    for one, other in zip(got, want, strict=True):
        plain = one.tolist() if isinstance(one, (np.ndarray, np.generic)) else one
        if text and numbers:  # exactly the number that Python reads, in the type of the column
            if other.strip() == "":
                assert plain is None or plain != plain
                continue
            other = int(other) if getattr(one, "dtype", np.dtype(int)).kind == "i" else float(other)
        if isinstance(plain, float) and isinstance(other, (int, float)) and hasattr(one, "dtype"):
            assert one == np.asarray(other).astype(one.dtype) or (plain != plain and other != other)
        elif other is None and isinstance(plain, float):
            assert plain != plain
        elif hasattr(one, "dtype") and one.dtype.kind == "f":
            assert np.array_equal(one, np.array(other, one.dtype))
        else:
            assert plain == other
            assert isinstance(plain, bool) == isinstance(other, bool)


class Hangs(BaseException):
    """A file that is read for a minute."""


def hangs(*_: Any) -> None:
    raise Hangs


def judge(seed: int, folder: Path) -> str:
    """Draw a file, read it and compare; says whether it was accepted."""
    rng = np.random.default_rng([7, seed])
    kind = list(MAKERS)[seed % len(MAKERS)]
    harm, change = pick(rng, HARMS)
    data = change(rng, MAKERS[kind](rng))
    ending = pick(rng, ("", "", ".gz", ".xz", ".zst")) if kind in ("csv", "tsv", "jsonl", "txt") else ""
    stored = compressed(data, ending)
    if ending and rng.integers(5) == 0:
        stored, data = stored[: len(stored) // 2], b"\xff"
    path = folder / f"hostile.{'csv' if kind == 'joined' else kind}{ending}"
    path.write_bytes(stored)
    want = reference(kind, data)
    signal.alarm(60)
    try:
        source = SOURCES[kind](path)
        found = source[np.arange(len(source))]
    except DataError as error:
        said = str(error)
        assert path.name in said, said
        assert len(said) < 2000
        assert want is None or harm != "nothing" or "beyond" in said, said
        if want is not None and kind == "txt":
            raise AssertionError(said) from error
        return "refused"
    finally:
        signal.alarm(0)
    assert want is not None, f"{kind} with {harm} was accepted: {data[:200]!r}"
    assert list(found) == list(want)
    if kind == "joined":
        count, one = len(next(iter(want.values()))), source.sources[0][np.arange(1)]  # in a type that may be wider than its own
        found = {n: v[:count].astype(one[n].dtype) if hasattr(v, "dtype") else v[:count] for n, v in found.items()}
    for name, values in found.items():
        if kind == "npz":
            assert np.array_equal(values, want[name], equal_nan=np.asarray(values).dtype.kind in "fc")
            continue
        assert_same(values, want[name], kind in ("csv", "tsv", "joined"))
        if kind in ("csv", "tsv") and all(re.fullmatch("-?[1-9][0-9]{0,15}", cell) for cell in want[name]):
            assert values.dtype == np.int64
    assert_splits_agree(source)
    return "accepted"


def hostile(seeds: range, folder: Path) -> None:
    before = signal.signal(signal.SIGALRM, hangs)
    try:
        outcomes = []
        for seed in seeds:
            try:
                outcomes.append(judge(seed, folder))
            except (Exception, Hangs) as error:
                raise AssertionError(f"file {seed}: {type(error).__name__}: {error}") from error
    finally:
        signal.signal(signal.SIGALRM, before)
    assert outcomes.count("accepted") > len(seeds) / 5
    assert outcomes.count("refused") > len(seeds) / 5


def test_four_hundred_hostile_files(tmp_path: Path) -> None:
    hostile(range(400), tmp_path)


@pytest.mark.slow
def test_eight_thousand_hostile_files(tmp_path: Path) -> None:
    hostile(range(400, 8400), tmp_path)
