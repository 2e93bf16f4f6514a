"""Folders with one sub-folder a class as sources: text files and images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError, require
from ..core.ranges import Count
from ..core.registry import decorator
from .class_folders import ClassFolder
from .doors import typed
from .images import MAX_PIXELS, SUFFIXES, Mode, check_size, decode_image, file_content
from .line_files import read_text
from .lines import TextLines
from .paths import PathLike
from .source import Batch, Indices, check_indices

MOST_NOTES = 100
"""Skipped files that a report names one by one."""
log = logging.getLogger("mapsto")


@decorator("source")("text_folder")
class TextFolder(ClassFolder):
    """Maps indices to texts (`input`, a list) and their classes (`target`, int64), the names of sub-folders in order.

    unit: whether each line of a file is a record (blank lines are not) or each whole file; suffixes: of the files that
    count (default: all); classes, order and what is left out: see `ClassFolder`. Raises DataError naming what is missing,
    or file and line where text cannot be decoded.
    """

    who = "text_folder"

    @typed
    def __init__(
        self,
        path: PathLike,
        unit: Literal["line", "file"] = "line",
        *,
        classes: list[str] | str | Path | None = None,
        encoding: str = "utf-8",
        suffixes: Sequence[str] | None = None,
    ) -> None:
        super().__init__(path, suffixes, classes)
        self.encoding = encoding
        self.lines = TextLines(self.files, encoding=encoding, skip_blank=True) if unit == "line" else None
        if self.lines is not None:
            self.labels = np.repeat(self.labels, [len(f) for f in self.lines.files])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, len(self), "text_folder")
        if self.lines is not None:
            texts = self.lines[indices]["input"]
        else:
            texts = [read_text(self.files[i], self.encoding) for i in indices.tolist()]
        return {"input": texts, "target": self.labels[indices]}

    def lengths(self, field: str, indices: Indices) -> Indices:
        """The bytes of each text, known without reading it."""
        if field != "input":
            raise DataError(f"text_folder: only the field 'input' has lengths, not {field!r}")
        if self.lines is not None:
            return self.lines.lengths("input", indices)
        return np.array([self.files[i].stat().st_size for i in indices.tolist()], np.int64)

    def close(self) -> None:
        """Give the memory maps of the files back; the source cannot be read afterwards."""
        if self.lines is not None:
            self.lines.close()


@decorator("source")("image_folder")
class ImageFolder(ClassFolder):
    """Maps indices to images (`input`, uint8 [batch, channels, height, width]) and classes (`target`, int64).

    size: (height, width) or one number that every image is resized to (bilinear); without it all must have one size. JPEG
    files are then decoded at the smallest of their scales (1/8 to 1) that is no smaller.
    mode: Pillow's, such as RGB or L (one channel); I;16 (uint16), I (int32) and F (float32) keep deep values.
    on_error: `skip` decodes every file once, when the source is built, and leaves out those that cannot be read, so that
    records are what can be read; max_pixels: of a file at most. Classes, order and what is left out: see `ClassFolder`.
    Raises DataError naming the file that is damaged, too large, of another size, or holds what the mode has no room for.
    """

    who = "image_folder"

    @typed
    def __init__(
        self,
        path: PathLike,
        size: int | tuple[int, int] | None = None,
        *,
        mode: Mode = "RGB",
        classes: list[str] | str | Path | None = None,
        suffixes: Sequence[str] = tuple(SUFFIXES),
        on_error: Literal["raise", "skip"] = "raise",
        max_pixels: Count = MAX_PIXELS,
    ) -> None:
        require("PIL", "images", "the source `image_folder`")
        self.size, self.mode, self.max_pixels = check_size(size), mode, max_pixels
        self.errors: dict[Path, str] = {}
        super().__init__(path, suffixes, classes)
        if on_error == "skip":
            self._skip()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, len(self), "image_folder")
        chosen = indices.tolist() or [0]
        first = self._read(self.files[chosen[0]])
        batch = np.empty((len(chosen), *first.shape), first.dtype)
        batch[0] = first
        for place, i in enumerate(chosen[1:], 1):
            image = self._read(self.files[i])
            if image.shape != first.shape:
                sizes = [" x ".join(map(str, shape[1:])) for shape in (image.shape, first.shape)]
                raise DataError(
                    f"image_folder: {self.files[i]} is {sizes[0]} and {self.files[chosen[0]]} is {sizes[1]} "
                    "(height x width): give a size that all are resized to"
                )
            batch[place] = image
        return {"input": batch[: len(indices)], "target": self.labels[indices]}

    def notes(self) -> list[str]:
        """Sentences on what was left out, and why."""
        return [*super().notes(), *(f"skipped: {why}" for why in list(self.errors.values())[:MOST_NOTES])]

    def _read(self, file: Path) -> npt.NDArray[Any]:
        return decode_image(file_content(file), file, self.size, self.mode, self.max_pixels)

    def _skip(self) -> None:
        """Leave out the files that cannot be decoded; decoders let go of the interpreter, so threads do it."""

        def error_of(file: Path) -> str | None:
            data = file_content(file)
            try:
                decode_image(data, file, self.size, self.mode, self.max_pixels)
            except DataError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            told = list(pool.map(error_of, self.files))
        self.errors = {file: why for file, why in zip(self.files, told, strict=True) if why is not None}
        if not self.errors:
            return
        if len(self.errors) == len(told):
            raise DataError(f"image_folder: none of the {len(told)} files in {self.folder} can be read; the first: {told[0]}")
        self.leave_out("unreadable", *self.errors)
        self.files = [file for file in self.files if file not in self.errors]
        self.labels = self.labels[[why is None for why in told]]
        log.warning("image_folder: %d of %d files in %s are skipped", len(self.errors), len(told), self.folder)
        for note in self.notes()[-len(self.errors) :]:
            log.warning("%s", note)
