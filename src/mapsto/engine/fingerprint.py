"""The fingerprint of a reader: what is kept of a run's data, so that going on with other data is noticed.

It is read at fixed places and at a bounded cost: of a reader with a source some records and where they stand, of any other
a few batches through the contract that all readers keep, and of files their sizes, times and contents (of large ones a
spread of blocks). Transforms are not called: what they do is code, which is kept with the run, and files, which are seen here.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.native import native_of
from ..core.values import Part
from ..data.bucket import Bucketed
from ..data.reader import Batches

RECORDS, POSITIONS, SLICE = 24, 8, 4
"""Records read one by one, positions at which a slice of a batch is read, and about how many records such a slice has."""
FILES, BYTES, BLOCK = 64, 1 << 25, 1 << 16
"""Files that are opened, bytes of contents that are read of all of them together, and of one block."""


def fingerprint(reader: Any, part: Any = None) -> dict[str, Any]:
    """What a reader's data are, as JSON data. part: how the spec states the reader, whose arguments may name files."""
    found: dict[str, Any] = {"records": int(reader.records), "batches_per_epoch": int(reader.batches_per_epoch)}
    if isinstance(reader, Batches):
        found["contents"] = {str(i): _guarded(_record(reader, i), found) for i in _spread(len(reader.source), RECORDS)}
        if not isinstance(reader.order, Bucketed):  # which would read the lengths of all records of a window
            found["order"] = digest_of([reader.indices(p) for p in _spread(reader.batches_per_epoch, POSITIONS)])
    else:
        positions = _spread(int(reader.batches_per_epoch), POSITIONS)
        found["batches"] = {str(p): _guarded(_slice(reader, p), found) for p in positions}
    found.setdefault("fields", {})
    files = list(dict.fromkeys([*_named(part), *_of_source(reader)]))
    if files:
        found["files"] = files_of(files)
    return found


def again(reader: Any, there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether records that differ between two fingerprints are drawn anew at each reading, so that they prove nothing."""
    what, read = ("contents", _record) if isinstance(reader, Batches) else ("batches", _slice)
    differ = _differ(there, here, what)
    return any(_guarded(read(reader, int(at))) != here[what][at] for at in differ)


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [i * (count - 1) // (most - 1) for i in range(most)]


def _record(reader: Batches, index: int) -> Callable[[], Any]:
    """One record as its source has it: no transform was applied."""
    return lambda: reader.source[np.array([index], np.int64)]


def _slice(reader: Any, position: int) -> Callable[[], Any]:
    """The last micro-shard of a batch that is cut so fine that it has some records only; the whole batch, or the first of a
    stream, of a reader that cannot be asked for less."""
    if not hasattr(reader, "batch"):
        return lambda: _first(reader, position)
    shards = max(1, -(-int(reader.records) // int(reader.batches_per_epoch)) // SLICE)
    try:
        cuts = {"shard", "shards"} <= inspect.signature(reader.batch).parameters.keys()
    except (TypeError, ValueError):
        cuts = False
    return (lambda: reader.batch(position, shard=shards - 1, shards=shards)) if cuts else lambda: reader.batch(position)


def _first(reader: Any, position: int) -> Any:
    with reader.stream(position, position + 1) as stream:
        return next(iter(stream))[1]


def _guarded(read: Callable[[], Any], about: dict[str, Any] | None = None) -> str:
    """The digest of what is read. A record that cannot be read is an error when a step needs it, and none before.

    about: told the fields of the first that is read.
    """
    try:
        batch = read()
        if about is not None and isinstance(batch, Mapping):
            about.setdefault("fields", {str(name): described(value) for name, value in batch.items()})
        return digest_of(batch)
    except Exception as error:  # noqa: BLE001  # whatever the user's source does
        return f"unreadable ({type(error).__name__})"


def described(value: Any) -> str:
    """The type of a field and the shape of one record of it."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        own = native_of(value)
        return f"{value.dtype if own is None else own.dtype_name(value.dtype)} {list(value.shape[1:])}"
    return f"list of {type(value[0]).__name__}" if isinstance(value, list) and value else type(value).__name__


# -- digests -----------------------------------------------------------------------------------------------------------
def digest_of(value: Any) -> str:
    """A short digest of a batch, or of any value in it: names, types, shapes and every value."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()[:16]


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        found.update(b"{%d" % len(value))
        for name, item in value.items():
            found.update(repr(name).encode())
            _feed(found, item)
    elif isinstance(value, (list, tuple)):
        found.update(b"[%d" % len(value))
        for item in value:
            _feed(found, item)
    elif (own := native_of(value)) is not None:
        found.update(f"{value.dtype} {tuple(value.shape)} ".encode())
        found.update(own.to_bytes(value))
    elif isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        array = np.asarray(value)
        found.update(f"{array.dtype.str} {array.shape} ".encode())
        if array.dtype.hasobject:
            _feed(found, array.tolist())
        else:
            found.update(np.ascontiguousarray(array).tobytes())
    else:
        found.update(re.sub(r" at 0x[0-9a-fA-F]+", "", f"{type(value).__name__} {value!r}").encode())


# -- files -------------------------------------------------------------------------------------------------------------
def _named(value: Any) -> Iterator[Path]:
    """Files that the arguments of a part name, those of nested parts too."""
    if isinstance(value, Part):
        value = value.args
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _named(item)
    elif type(value) in (list, tuple):
        for item in value[:1000]:  # a longer one holds data rather than names
            yield from _named(item)
    elif isinstance(value, (str, Path)) and is_path(value) and Path(value).expanduser().is_file():
        yield Path(value).expanduser()


def is_path(value: Any) -> bool:
    """Whether something of this name is there."""
    try:
        return isinstance(value, (str, Path)) and str(value) != "" and Path(value).expanduser().exists()
    except (OSError, ValueError):  # too long for a name, or with a character that no name has
        return False


def _of_source(reader: Any) -> Iterator[Path]:
    """Files that sources say they read: an attribute `files` of paths, or of objects that have a `path`."""
    for name in ("source", "lines"):
        if (inner := getattr(reader, name, None)) is not None:
            yield from _of_source(inner)
    inner = getattr(reader, "sources", None)
    for one in inner if isinstance(inner, (list, tuple)) else ():
        yield from _of_source(one)
    told = getattr(reader, "files", None)
    for file in told if isinstance(told, (list, tuple)) else ():
        path = getattr(file, "path", file)
        if isinstance(path, (str, Path)):
            yield Path(path)


def files_of(files: list[Path]) -> dict[str, Any]:
    """How many files there are, and of a spread of them name, size, time of writing and a digest of what is read of them."""
    chosen = [files[i] for i in _spread(len(files), FILES)]
    spread = []
    for file in chosen:
        try:
            told = file.stat()
            digest, whole = _contents(file, told.st_size, BYTES // len(chosen))
        except OSError as error:
            spread.append({"name": file.name, "digest": f"unreadable ({error.strerror})", "whole": True})
            continue
        spread.append({"name": file.name, "size": told.st_size, "time": told.st_mtime_ns, "digest": digest, "whole": whole})
    return {"count": len(files), "spread": spread}


def _contents(file: Path, size: int, budget: int) -> tuple[str, bool]:
    """A digest of a file's bytes, and whether these are all of them rather than a spread of blocks."""
    found = hashlib.sha256()
    with open(file, "rb") as handle:
        if size <= budget:
            return hashlib.file_digest(handle, "sha256").hexdigest()[:16], True
        for start in _spread(size - BLOCK + 1, max(2, budget // BLOCK)):
            handle.seek(start)
            found.update(handle.read(BLOCK))
    return found.hexdigest()[:16], False


# -- comparing ---------------------------------------------------------------------------------------------------------
def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(what proves that the data are others, what only may): of two fingerprints, in words.

    When a file was written proves nothing (a copy has another time), unless its contents are too large to be read whole:
    then it is told.
    """
    found = [f"{name} {there[name]} -> {here[name]}" for name in ("records", "batches_per_epoch") if there[name] != here[name]]
    fields = dict.fromkeys([*there["fields"], *here["fields"]])
    before, now = there["fields"], here["fields"]
    found += [f"field {n}: {before.get(n, 'none')} -> {now.get(n, 'none')}" for n in fields if before.get(n) != now.get(n)]
    if records := _differ(there, here, "contents"):
        found.append(f"contents at record {_several(records)}")
    proof, notes = _files(there.get("files"), here.get("files"))
    found += proof
    if (batches := _differ(there, here, "batches")) and not found:
        found.append(f"the batch at position {_several(batches)}")
    if there.get("order") != here.get("order") and not found:
        found.append("the order of the records")
    return found, notes


def _differ(there: Mapping[str, Any], here: Mapping[str, Any], what: str) -> list[str]:
    before, now = there.get(what, {}), here.get(what, {})
    return [at for at in before if at in now and before[at] != now[at]]


def _several(places: list[str]) -> str:
    return ", ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")


def _files(there: Mapping[str, Any] | None, here: Mapping[str, Any] | None) -> tuple[list[str], list[str]]:
    if there is None or here is None:
        return [], []
    if there["count"] != here["count"]:
        return [f"files {there['count']} -> {here['count']}"], []
    found, notes = [], []
    for before, now in zip(there["spread"], here["spread"], strict=True):
        name = now["name"] if now["name"] == before["name"] else f"{before['name']} (now {now['name']})"
        if before.get("size") != now.get("size"):
            found.append(f"file {name}: size {before.get('size')} -> {now.get('size')}")
        elif before["digest"] != now["digest"]:
            found.append(f"file {name}: other contents of the same size")
        elif before.get("time") != now.get("time") and not now["whole"]:
            notes.append(f"file {name} was written at another time; its size and the blocks that are compared are the same")
    more = [f"and {len(found) - 4} more files"] if len(found) > 4 else []
    return [*found[:4], *more], [*notes[:4], *([f"and {len(notes) - 4} more such files"] if len(notes) > 4 else [])]
