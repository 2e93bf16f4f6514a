"""Paths that must exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from ..core.errors import DataError, nearest

PathLike: TypeAlias = str | Path


def existing_file(path: PathLike, who: str) -> Path:
    """The path of a file that is there. Raises DataError with the nearest name beside it."""
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"{who}: {file} is a folder, and a file is wanted")
    if not file.is_file():
        raise DataError(f"{who}: there is no file {file}; {_beside(file)}")
    return file


def existing_folder(path: PathLike, who: str) -> Path:
    """The path of a folder that is there. Raises DataError with the nearest name beside it."""
    folder = Path(path).expanduser()
    if folder.is_file():
        raise DataError(f"{who}: {folder} is a file, and a folder is wanted")
    if not folder.is_dir():
        raise DataError(f"{who}: there is no folder {folder}; {_beside(folder)}")
    return folder


def existing_files(path: PathLike | Sequence[PathLike], who: str) -> list[Path]:
    """One path or several, all there, in the order given."""
    several = [path] if isinstance(path, (str, Path)) else list(path)
    if not several:
        raise DataError(f"{who}: no file is named")
    return [existing_file(p, who) for p in several]


def _beside(path: Path) -> str:
    """What is there instead: the nearest name in the same folder, or the first part of the path that is missing."""
    parent = path.parent
    if parent.is_dir():
        return nearest(path.name, [p.name for p in parent.iterdir()][:200])
    while not parent.parent.is_dir():
        parent = parent.parent
    return f"its folder {parent} is missing; " + nearest(parent.name, [p.name for p in parent.parent.iterdir()][:200])
