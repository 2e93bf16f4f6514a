"""Files without labels in the place of a data set that has them: what reads labels is left out of the reader."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, MapstoError, SpecError
from ..core.values import Part, as_part
from ..data import Pad, Rename, Select
from ..data.lines import TextLines


def labels_of(task: Any, reader: Part) -> set[str]:
    """The field that a spec's task compares with, and the names that it has before the reader's transforms rename it."""
    said = task.args.get("target") if isinstance(task, Part) else getattr(task, "target", None)
    labels = {said if isinstance(said, str) else "target"}
    transforms = reader.args.get("transforms", ())
    for transform in reversed(transforms if isinstance(transforms, (list, tuple)) else [transforms]):
        if isinstance(transform, (Part, Mapping)):
            names = as_part(transform).args.get("names")
            labels |= {old for old, new in names.items() if new in labels} if isinstance(names, Mapping) else set()
    return labels


def without_labels(part: Part, labels: set[str], build: Callable[[Part], Any]) -> Any:
    """The source that a part says, built; where its files lack the labels, the same source without those fields.

    Raises what is wrong besides the labels that lack.
    """
    try:
        return build(part)
    except (DataError, SpecError) as error:
        wrong = error
        for other in _alternatives(part, labels):
            try:
                return build(other)
            except (DataError, SpecError) as besides:
                wrong = besides
        raise wrong from None


def _alternatives(part: Part, labels: set[str]) -> Iterator[Part]:
    fields, pattern = part.args.get("fields"), part.args.get("pattern")
    names = dict(fields) if isinstance(fields, Mapping) else {f: f for f in fields or ()}
    said = {n: dict(v) for n, v in part.args.items() if n in ("types", "missing") and isinstance(v, Mapping)}
    dropped = {n: {f: v for f, v in of.items() if f not in labels} for n, of in said.items()}
    others = {f: c for f, c in names.items() if f not in labels}
    if others and len(others) < len(names):
        yield Part(part.use, {**part.args, **dropped, "fields": others})
    elif dropped != said:
        yield Part(part.use, {**part.args, **dropped})
    if isinstance(pattern, str) and part.name == "text_lines":
        groups = [g for g in re.compile(pattern).groupindex if g not in labels]
        encoding = part.args.get("encoding", "utf-8")
        first = TextLines(part.args["path"], encoding=encoding, skip_blank=True)[np.zeros(1, np.int64)]["input"][0]
        if len(groups) == 1 and re.fullmatch(pattern, first) is None:  # not one line of many that is wrong
            kept = {n: v for n, v in part.args.items() if n not in ("pattern", "types", "missing")}
            yield Part(part.use, {**kept, "field": groups[0]})


@contextlib.contextmanager
def folder_of_classes(folder: Path) -> Iterator[tuple[Path, bool]]:
    """(a folder whose sub-folders hold the files, whether it is one of files alone, which then stand in one sub-folder)."""
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir()):
        yield folder, False
        return
    with tempfile.TemporaryDirectory(prefix="mapsto-input-") as made:
        link = Path(made) / "unlabelled"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        try:
            yield Path(made), True
        except MapstoError as error:  # which tells where it read
            said = str(error).replace(str(link), str(folder)).replace(made, str(folder))
            if said == str(error):
                raise
            raise type(error)(said) from error


class Without:
    """A source less some fields, of the files of a folder that stands as `folder_of_classes` made it."""

    vectorised = True

    def __init__(self, source: Any, fields: set[str], folder: Path) -> None:
        self.source, self.fields = source, fields
        self.classes = getattr(source, "classes", None)
        files = getattr(source, "files", None)
        self.files = [folder.joinpath(*Path(f).relative_to(source.folder).parts[1:]) for f in files] if files else files

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, indices: Any) -> dict[str, Any]:
        return {name: values for name, values in self.source[indices].items() if name not in self.fields}


def leave_out_labels(reader: Any, labels: set[str]) -> None:
    """Take out of a reader's transforms what reads the labels, where its source has none; they stay in `reader.unused`.

    An own transform that reads them is told by name when it does.
    """
    if not hasattr(reader, "transforms") or labels & set(reader.source[np.zeros(1, np.int64)]):
        return
    lacking = labels
    kept: list[Any] = []
    for transform in reader.transforms:
        one = getattr(transform, "field", None)
        if isinstance(transform, Rename):
            kept.append(Rename({old: new for old, new in transform.names.items() if old not in lacking}))
        elif isinstance(transform, Select):
            kept.append(Select([name for name in transform.fields if name not in lacking]))
        elif isinstance(transform, Pad) and len(transform.fields) > 1:
            transform.field = [name for name in transform.fields if name not in lacking]
            kept.append(transform)
        elif not (isinstance(one, str) and one in lacking):
            kept.append(_Told(transform, lacking) if not type(transform).__module__.startswith("mapsto.") else transform)
    reader.unused = tuple(t for t in reader.transforms if getattr(t, "field", None) in labels)
    draws = {id(t): drawn for t, drawn in zip(reader.transforms, reader._draws, strict=True)}
    reader._draws = tuple(draws.get(id(getattr(t, "transform", t)), False) for t in kept)
    reader.transforms = tuple(kept)


class _Told:
    """A transform of the user's own, whose look at a label that is not there is one clear error."""

    def __init__(self, transform: Any, lacking: set[str]) -> None:
        self.transform, self.lacking = transform, lacking

    def __call__(self, batch: dict[str, Any], **more: Any) -> Any:
        try:
            return self.transform(batch, **more)
        except KeyError as error:
            if not error.args or error.args[0] not in self.lacking:
                raise
            own = getattr(self.transform, "func", self.transform)
            name = getattr(own, "__name__", type(own).__name__)
            raise DataError(
                f"--input: the file has no field {error.args[0]!r}, which transform {name} reads: it must leave out what it "
                "does for labels where there are none"
            ) from None
