"""What stands beside a prediction: which record it is of, the name of its label, fields of the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest

FILE = "file"
"""The field that a source of files has beside its own: the path of each record's file."""


class Beside:
    """Maps batches of predictions, in the order of the reader's records, to batches with more fields.

    keep: fields of the source, as they are before transforms (of a source of files `file` too); id_field: the one that
    tells a record, in the place of its number `record`; classes: the names of labels, where folders give them. Labels that
    have names get the field `label_name`. Raises DataError where there is no such field, or one has the name of a prediction.
    """

    def __init__(self, reader: Any, keep: Sequence[str], id_field: str | None, classes: Any = None) -> None:
        self.classes = classes
        self.first, self.id, self.reader = 0, id_field, reader
        self.names = list(dict.fromkeys([*([id_field] if id_field else []), *keep]))
        self.source: Any = getattr(reader, "source", None)
        if not self.names:
            return
        if self.source is None:
            raise DataError(f"--keep: a {type(reader).__name__} has no source whose fields could be kept")
        self.files = self._files()
        there = [*self.source[np.zeros(1, np.int64)], *([FILE] if self.files is not None else [])]
        for name in self.names:
            if name not in there:
                what = "--id" if name == id_field else "--keep"
                raise DataError(f"{what}: the source has no field {name!r}; {nearest(name, there)}")

    def __call__(self, batch: Mapping[str, Any], task: Any) -> dict[str, Any]:
        count = len(next(iter(batch.values())))
        indices = np.arange(self.first, self.first + count, dtype=np.int64)
        self.first += count
        told = self._kept(indices) if self.names else {}
        if self.id is None:
            told = {"record": indices, **told}
        if (both := set(told) & set(batch)) - ({"record"} if self.id is None and "record" in batch else set()):
            raise DataError(
                f"--keep: {min(both)!r} is the name of a prediction too; rename the field with the transform `rename`"
            )
        return {**told, **batch, **self._named(batch, task)}

    def _kept(self, indices: Any) -> dict[str, Any]:
        read = [n for n in self.names if n != FILE or self.files is None]
        raw = self.source[indices] if read else {}
        return {n: raw[n] if n in raw else [str(self.files[i]) for i in indices.tolist()] for n in self.names}

    def _named(self, batch: Mapping[str, Any], task: Any) -> dict[str, Any]:
        """The names of predicted labels: as the task says, a transform that made numbers of them, or the folders' classes."""
        names = getattr(task, "labels", None)
        for transform in (*getattr(self.reader, "transforms", ()), *getattr(self.reader, "unused", ())):
            if names is None and getattr(transform, "field", None) == getattr(task, "target", "target"):
                names = getattr(transform, "classes", None)
        if names is None:
            names = self.classes
        label = batch.get("label")
        if not isinstance(names, (list, tuple)) or not isinstance(label, np.ndarray) or label.dtype.kind not in "iu":
            return {}
        if label.ndim != 1 or "label_name" in batch or (label.size and not 0 <= label.min() <= label.max() < len(names)):
            return {}
        return {"label_name": [names[i] if isinstance(names[i], str) else str(names[i]) for i in label.tolist()]}

    def _files(self) -> Any:
        files = getattr(self.source, "files", None)
        return files if isinstance(files, list) and len(files) == len(self.source or ()) else None
