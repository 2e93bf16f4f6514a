"""Paths that must exist."""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from ..core.errors import DataError, MissingFile, nearest

PathLike: TypeAlias = str | Path


def existing_file(path: PathLike, who: str) -> Path:
    """The path of a file that is there. Raises DataError with the nearest name beside it."""
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"{who}: {file} is a folder, and a file is wanted")
    if not file.is_file():
        raise MissingFile(f"{who}: there is no file {file}; {beside(file)}")
    return file


def existing_folder(path: PathLike, who: str) -> Path:
    """The path of a folder that is there. Raises DataError with the nearest name beside it."""
    folder = Path(path).expanduser()
    if folder.is_file():
        raise DataError(f"{who}: {folder} is a file, and a folder is wanted")
    if not folder.is_dir():
        raise MissingFile(f"{who}: there is no folder {folder}; {beside(folder)}")
    return folder


def existing_files(path: PathLike | Sequence[PathLike], who: str) -> list[Path]:
    """One path or several, all there, in the order given."""
    several = [path] if isinstance(path, (str, Path)) else list(path)
    if not several:
        raise DataError(f"{who}: no file is named")
    return [existing_file(p, who) for p in several]


LIKE, MANY = 3, 10_000
"""Names that an error proposes, and those that are looked at for it: a folder may hold any number."""


def beside(path: Path) -> str:
    """What is there instead: the nearest names in the same folder, or the first part of the path that is missing."""
    if path.parent.is_dir():
        return _like(path)
    parent = path.parent
    while not parent.parent.is_dir():
        parent = parent.parent
    return f"its folder {parent} is missing; {_like(parent)}"


def _like(path: Path) -> str:
    with os.scandir(path.parent) as entries:
        there = sorted(entry.name for entry in itertools.islice(entries, MANY))
    if len(there) <= LIKE:
        return nearest(path.name, there) if there else f"{path.parent} is empty"
    lowered = {name.lower(): name for name in there}
    close = difflib.get_close_matches(path.name.lower(), lowered, n=LIKE, cutoff=0.5)
    return (
        f"did you mean {' or '.join(repr(lowered[name]) for name in close)}?" if close else "nothing beside it has such a name"
    )
