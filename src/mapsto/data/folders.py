"""Folders with one sub-folder a class as sources: text files and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core.errors import DataError, require
from ..core.registry import decorator
from .class_folders import ClassFolder
from .lines import TextLines, read_text
from .paths import PathLike
from .source import Batch, Indices, check_indices

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@decorator("source")("text_folder")
class TextFolder(ClassFolder):
    """Maps indices to texts (`input`, a list) and their classes (`target`, int64), the names of sub-folders in order.

    unit: whether each line of a file is a record (blank lines are not) or each whole file; suffixes: of the files that
    count (default: all); classes, order and what is left out: see `ClassFolder`. Raises DataError naming what is missing,
    or file and line where text cannot be decoded.
    """

    who = "text_folder"

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
        """Unmap the files."""
        if self.lines is not None:
            self.lines.close()


@decorator("source")("image_folder")
class ImageFolder(ClassFolder):
    """Maps indices to images (`input`, uint8 [batch, channels, height, width]) and classes (`target`, int64).

    size: (height, width) or one number that every image is resized to (bilinear); without it all must have one size.
    mode: Pillow's, such as RGB or L (one channel); classes, order and what is left out: see `ClassFolder`. Raises DataError
    naming the file that is corrupt or of another size.
    """

    who = "image_folder"

    def __init__(
        self,
        path: PathLike,
        size: int | tuple[int, int] | None = None,
        *,
        mode: str = "RGB",
        classes: list[str] | str | Path | None = None,
        suffixes: Sequence[str] = IMAGES,
    ) -> None:
        require("PIL", "images", "the source `image_folder`")
        super().__init__(path, suffixes, classes)
        self.size = (size, size) if isinstance(size, int) else size
        self.mode = mode

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, len(self), "image_folder")
        images = [self._read(self.files[i]) for i in (indices.tolist() or [0])]
        for i, image in zip(indices.tolist(), images, strict=False):
            if image.shape != images[0].shape:
                sizes = [" x ".join(map(str, shape[1:])) for shape in (image.shape, images[0].shape)]
                raise DataError(
                    f"image_folder: {self.files[i]} is {sizes[0]} and {self.files[int(indices[0])]} is {sizes[1]} "
                    "(height x width): give a size that all are resized to"
                )
        return {"input": np.stack(images)[: len(indices)], "target": self.labels[indices]}

    def _read(self, file: Path) -> np.ndarray[Any, Any]:
        image_module = require("PIL.Image", "images", "the source `image_folder`")
        try:
            with image_module.open(file) as opened:
                image = opened.convert(self.mode)
                if self.size is not None and image.size != self.size[::-1]:
                    image = image.resize(self.size[::-1], image_module.Resampling.BILINEAR)
                pixels = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"image_folder: {file} cannot be read as an image: {error}") from error
        return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
