"""Random transforms of images: [batch, ..., height, width] -> the same, drawn record by record from the reader's generator."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.ranges import Share, Whole
from ..core.registry import decorator
from .doors import typed
from .source import Batch
from .transforms import Array, array_of


def images_of(batch: Batch, field: str, who: str) -> Array:
    """A field of images. Raises DataError where it has no height and width."""
    images = array_of(batch, field, who)
    if images.ndim < 3:
        raise DataError(f"{who}: field {field!r} has shape {images.shape}; [batch, ..., height, width] is wanted")
    return images


@decorator("transform")("random_flip")
class RandomFlip:
    """Maps each image to its mirror image (left to right) with probability p."""

    @typed
    def __init__(self, field: str = "input", p: Share = 0.5) -> None:
        self.field, self.p = field, p

    def __call__(self, batch: Batch, *, rng: np.random.Generator) -> Batch:
        images = images_of(batch, self.field, "random_flip")
        flip = rng.random(len(images)) < self.p
        flipped = images.copy()
        flipped[flip] = images[flip][..., ::-1]
        return {**batch, self.field: flipped}


@decorator("transform")("random_shift")
class RandomShift:
    """Maps each image to itself moved by up to `pixels` in both directions, uniformly; what moves in is `fill`."""

    @typed
    def __init__(self, pixels: Whole, field: str = "input", fill: float = 0) -> None:
        self.pixels, self.field, self.fill = pixels, field, fill

    def __call__(self, batch: Batch, *, rng: np.random.Generator) -> Batch:
        images = images_of(batch, self.field, "random_shift")
        corners = rng.integers(-self.pixels, self.pixels + 1, (len(images), 2))
        return {**batch, self.field: windows(images, corners, images.shape[-2:], self.fill)}


@decorator("transform")("random_crop")
class RandomCrop:
    """Maps each image, padded by `padding` of `fill`, to a window of `size` at a uniformly random place.

    size: (height, width) or one number for both (default: the image's own). Raises DataError where it does not fit.
    """

    @typed
    def __init__(
        self, size: int | tuple[int, int] | None = None, padding: Whole = 0, field: str = "input", fill: float = 0
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else size
        self.padding, self.field, self.fill = padding, field, fill

    def __call__(self, batch: Batch, *, rng: np.random.Generator) -> Batch:
        images = images_of(batch, self.field, "random_crop")
        height, width = self.size or images.shape[-2:]
        room = np.array(images.shape[-2:]) + 2 * self.padding - (height, width)
        if (room < 0).any():
            raise DataError(
                f"random_crop: a window of {height} x {width} does not fit into images of "
                f"{images.shape[-2]} x {images.shape[-1]} padded by {self.padding}"
            )
        corners = rng.integers(0, room + 1, (len(images), 2)) - self.padding
        return {**batch, self.field: windows(images, corners, (height, width), self.fill)}


def windows(images: Array, corners: Any, size: tuple[int, ...], fill: float) -> Array:
    """The window of `size` at each image's own (top, left) corner, which may lie outside; outside is `fill`."""
    height, width = images.shape[-2:]
    found = np.full((*images.shape[:-2], *size), fill, images.dtype)
    for i, (top, left) in enumerate(corners.tolist()):
        rows = slice(max(top, 0), min(top + size[0], height))
        columns = slice(max(left, 0), min(left + size[1], width))
        if rows.start < rows.stop and columns.start < columns.stop:
            to_rows = slice(rows.start - top, rows.stop - top)
            to_columns = slice(columns.start - left, columns.stop - left)
            found[i, ..., to_rows, to_columns] = images[i, ..., rows, columns]
    return found
