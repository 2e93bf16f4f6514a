"""Folders with one sub-folder a class: which files they hold, and one numbering of the classes for all of them."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest
from .paths import PathLike, existing_folder
from .source import Indices, Source, field_of, sources_within

log = logging.getLogger("mapsto")
JUNK = ("desktop.ini", "ehthumbs.db", "thumbs.db", "__macosx")
"""Names, in lower case, that systems leave in folders without a leading dot; they count as hidden."""
NAMED = 3
"""Files that a sentence names at most."""


class ClassFolder(Source):
    """A source of the files in a folder's sub-folders, each of which is a class (`target`, int64).

    classes: the names in the order of their numbers (None: the sub-folders by name), or a folder whose sub-folders give
    them; suffixes: of the files that count (None: all). The order of records is that of class names, then of the
    names along the path, by code points: the file system has no say in it. Hidden files (a leading dot, and what systems
    leave behind), files of other kinds and files outside of a class are left out; `left_out` holds them by the reason.
    Links are followed. Raises DataError naming a class that is not among `classes`, a class without files where `classes`
    does not say that it may have none, and a link that leads back to a folder it lies in.
    """

    who = "class_folder"

    def __init__(self, path: PathLike, suffixes: Sequence[str] | None, classes: Sequence[str] | PathLike | None) -> None:
        self.folder = existing_folder(path, self.who)
        self.stated = classes is not None
        self.left_out: dict[str, list[Path]] = {}
        there = self._sub_folders(self.folder)
        self.classes = [n for n, _ in there] if classes is None else self._named(classes)
        self.files: list[Path] = []
        labels: list[int] = []
        if not there:
            raise DataError(f"{self.who}: {self.folder} has no sub-folders; one a class is wanted, such as CLASS/FILE in it")
        for name, folder in there:
            own, others = self._files(folder, None if suffixes is None else {s.lower() for s in suffixes})
            if own:
                labels += [self._number(name, self.classes)] * len(own)
                self.files += own
            elif not self.stated:
                found = ", ".join(sorted({p.suffix or p.name for p in others})) or "no files"
                raise DataError(
                    f"{self.who}: {folder} has no {'/'.join(suffixes or ['file'])} files (it has {found}); a class may lack "
                    "them where `classes=[...]` names it"
                )
        if not self.files:
            raise DataError(f"{self.who}: {self.folder} has no files in the folders of its classes")
        self.labels: Indices = np.array(labels, np.int64)
        if self.left_out:
            log.warning("%s", self.notes()[0])

    def notes(self) -> list[str]:
        """A sentence on what was left out, where anything was."""
        if not self.left_out:
            return []
        told = "; ".join(f"{len(files)} {why} ({_some(files, self.folder)})" for why, files in self.left_out.items())
        return [f"{self.who}: left out of {self.folder}: {told}"]

    def field_values(self, field: str, indices: Indices) -> Any:
        """One field of records; classes are known without reading a file."""
        return self.labels[indices] if field == "target" else field_of(self[indices], field, self.who)

    def number_by(self, classes: Sequence[str], whose: str) -> None:
        """Number the classes as `classes` does. Raises DataError where this folder states another list or holds others."""
        if self.classes == list(classes):
            return
        if self.stated:
            raise DataError(
                f"{self.who}: {self.folder} numbers its classes {_listed(self.classes)}, and {whose} numbers them "
                f"{_listed(classes)}: one list is wanted for all"
            )
        held = set(self.labels.tolist())
        numbers = [self._number(name, classes, whose) if i in held else -1 for i, name in enumerate(self.classes)]
        self.labels, self.classes = np.array(numbers, np.int64)[self.labels], list(classes)

    # -- what is there -----------------------------------------------------------------------------------------------
    def _named(self, classes: Sequence[str] | PathLike) -> list[str]:
        if isinstance(classes, (str, Path)):
            return [n for n, _ in self._sub_folders(existing_folder(classes, f"{self.who}: classes"), count=False)]
        names = [unicodedata.normalize("NFC", str(n)) for n in classes]
        if not names or len(set(names)) < len(names):
            raise DataError(f"{self.who}: classes {_listed(names)} must be at least one name, each once")
        return names

    def _number(self, name: str, classes: Sequence[str], whose: str = "`classes`") -> int:
        if name not in classes:
            raise DataError(f"{self.who}: {self.folder / name} is a class that {whose} does not have; {nearest(name, classes)}")
        return list(classes).index(name)

    def _sub_folders(self, folder: Path, count: bool = True) -> list[tuple[str, Path]]:
        """(class name, folder) in order of name."""
        found = []
        for entry in _entries(folder):
            if _is_folder(entry) and not _hidden(entry.name):
                found.append((unicodedata.normalize("NFC", entry.name), Path(entry.path)))
            elif count:
                self.leave_out("hidden" if _hidden(entry.name) else "outside of a class", Path(entry.path))
        return found

    def _files(self, folder: Path, suffixes: set[str] | None) -> tuple[list[Path], list[Path]]:
        """The files of a class that count, and those that are of another kind."""
        own: list[Path] = []
        others: list[Path] = []
        for path, hidden in _walk(folder, (_identity(self.folder),), False):
            if hidden:
                self.leave_out("hidden", path)
            elif not path.is_file():
                others.append(path)
                self.leave_out("broken links or no regular files", path)
            elif suffixes is not None and path.suffix.lower() not in suffixes:
                others.append(path)
                self.leave_out("of another kind", path)
            else:
                own.append(path)
        return own, others

    def leave_out(self, why: str, *files: Path) -> None:
        """Count files that are no records, by the reason."""
        self.left_out.setdefault(why, []).extend(files)


def share_classes(reader: Any, training: Callable[[], Any], whose: str) -> None:
    """Number the classes of a reader's folders, where it has any, as those of the training reader are.

    Raises DataError naming a class that the training reader lacks.
    """
    own = list(_class_folders(reader))
    if own and (first := next(_class_folders(training()), None)) is not None:
        for folder in own:
            folder.number_by(first.classes, whose)


def same_classes(sources: Sequence[Any]) -> None:
    """Raise DataError where folders that are read as one number their classes differently."""
    folders = [folder for source in sources for folder in _class_folders(source)]
    for other in folders[1:]:
        if other.classes != folders[0].classes:
            raise DataError(
                f"{other.who}: {folders[0].folder} has the classes {_listed(folders[0].classes)} and {other.folder} has "
                f"{_listed(other.classes)}, so their numbers differ: give both the same `classes=[...]`"
            )


def _class_folders(value: Any) -> Iterator[ClassFolder]:
    return (source for source in sources_within(value) if isinstance(source, ClassFolder))


# -- walking -----------------------------------------------------------------------------------------------------------
def _walk(folder: Path, above: tuple[tuple[int, int], ...], hidden: bool) -> Iterator[tuple[Path, bool]]:
    """(file, whether it is hidden) of a folder and those within, ordered by the names along the path."""
    own = _identity(folder)
    if own in above:
        raise DataError(f"{folder} is a link to a folder that it lies in, so there is no end of files in it")
    for entry in _entries(folder):
        inside = hidden or _hidden(entry.name)
        if _is_folder(entry):
            yield from _walk(Path(entry.path), (*above, own), inside)
        else:
            yield Path(entry.path), inside


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda e: (unicodedata.normalize("NFC", e.name), e.name))
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link to itself is none."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _some(files: Sequence[Path], folder: Path) -> str:
    """The first of them by name, and how many more."""
    names = [str(f.relative_to(folder)) for f in files[:NAMED]]
    return ", ".join(names) + (f" and {len(files) - NAMED} more" if len(files) > NAMED else "")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"[{shown}{', ...' if len(names) > 8 else ''}]"
