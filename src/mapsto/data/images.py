"""Image files as arrays: whole values, upright, at the size that is wanted.

Pillow decides what a file means. JPEG files are decoded by simplejpeg where it is installed: it builds on the same
libjpeg-turbo, so its pixels are bitwise Pillow's, and what it does not take or finds faulty goes to Pillow.
"""

from __future__ import annotations

import functools
import importlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError, require

Pixels = npt.NDArray[Any]
Size = tuple[int, int]

SUFFIXES = {
    ".bmp": "BMP", ".gif": "GIF", ".jpeg": "JPEG", ".jpg": "JPEG", ".pgm": "PPM", ".png": "PNG", ".ppm": "PPM", ".tif": "TIFF",
    ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
"""File endings that count as images, and Pillow's name of their format."""
FORMATS = sorted(set(SUFFIXES.values()))
"""What is looked for in such files; no format that runs a program of its own (PostScript) is among them."""
Mode = Literal["CMYK", "F", "HSV", "I", "I;16", "L", "LA", "LAB", "P", "RGB", "RGBA", "YCbCr"]
MODES = get_args(Mode)
DEEP: dict[str, Any] = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
"""Modes of one channel that hold more than 8 bits."""
MAX_PIXELS = 89_478_485
"""Pillow's own limit: a quarter of a gigabyte of RGB pixels."""
LEAST_SCALED = 64
"""Below so many pixels two of simplejpeg's scales can give one size, and Pillow decodes instead."""
ORIENTATION = 0x0112


def check_size(size: int | Sequence[int] | None) -> Size | None:
    """(height, width) of one number or two. Raises DataError where they are not whole numbers of at least 1."""
    if size is None:
        return None
    both = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(both) != 2 or any(isinstance(n, bool) or int(n) != n or n < 1 for n in both):
        raise DataError(f"image_folder: size {size!r} is not allowed; it is one whole number, or (height, width)")
    return int(both[0]), int(both[1])


def file_content(file: Path) -> bytes:
    """All bytes of a file. Raises DataError where the system cannot read it, which says nothing on what it holds."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"image_folder: {file} cannot be opened: {error.strerror}") from None


def decode_image(data: bytes, file: Path, size: Size | None, mode: str, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The pixels of a file's bytes, upright, as [channels, height, width]; float32, int32, uint16 or uint8 by the mode.

    size: (height, width) that it is resized to. Raises DataError naming the file where it is damaged, has more than
    `max_pixels`, or holds values that the mode has no room for.
    """
    try:
        pixels = _fast(data, size, mode, max_pixels)
        if pixels is None:
            pixels = _slow(data, file, size, mode, max_pixels)
    except DataError as error:
        raise DataError(f"image_folder: {file} {error}") from None
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # whatever a damaged file makes of a decoder
        raise DataError(f"image_folder: {file} cannot be read as an image: {error}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _slow(data: bytes, file: Path, size: Size | None, mode: str, max_pixels: int) -> Pixels:
    """The pixels by Pillow."""
    pillow, operations = _pillow(), require("PIL.ImageOps", "images", "the source `image_folder`")
    if pillow.MAX_IMAGE_PIXELS is not None and max_pixels > pillow.MAX_IMAGE_PIXELS:
        pillow.MAX_IMAGE_PIXELS = max_pixels
    formats = FORMATS if file.suffix.lower() in SUFFIXES else None
    try:
        image = pillow.open(io.BytesIO(data), formats=formats)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise DataError(f"may be a decompression bomb: {error}") from None
    except pillow.UnidentifiedImageError:
        raise DataError("cannot be read as an image: it is none of a known kind") from None
    _check_pixels(image.width, image.height, max_pixels)
    if _is_deep_colour(image):
        raise DataError("has 16 bits a colour, of which Pillow reads 8: write it with 8, or as gray images (mode 'I;16')")
    if image.format in ("JPEG", "MPO"):
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        wanted = None if size is None else size if turned else size[::-1]
        image.draft("L" if mode == "L" and image.mode == "RGB" else image.mode, wanted)
    operations.exif_transpose(image, in_place=True)
    return _sized(_converted(image, mode), size, mode)


def _converted(image: Any, mode: str) -> Any:
    """The image in a mode. Raises DataError where that loses more than colours: depth, or what is no palette."""
    deep = "F" if image.mode == "F" else "I" if image.mode == "I" else "I;16" if image.mode.startswith("I;16") else None
    if mode == "P" and image.mode != "P":
        raise DataError(f"has no palette (its mode is {image.mode}), and mode 'P' reads the numbers of one")
    if deep is not None and mode not in DEEP:
        keeps = " or ".join(repr(m) for m in DEEP if list(DEEP).index(m) >= list(DEEP).index(deep))
        raise DataError(
            f"holds values of more than 8 bits (its mode is {deep}), and mode {mode!r} has no more: {keeps} keeps them"
        )
    if mode not in DEEP:
        if image.mode == "P" and "transparency" in image.info and mode != "P":
            image = image.convert("RGBA")  # as Pillow wants it, which would warn otherwise
        return image if image.mode == mode else image.convert(mode)
    values = np.asarray(image if deep else image.convert("L"))
    kind = DEEP[mode]
    if mode != "F":
        limits = np.iinfo(kind)
        if deep == "F" or values.min() < limits.min or values.max() > limits.max:
            raise DataError(
                f"holds values from {values.min():g} to {values.max():g} (its mode is {deep}), and mode {mode!r} does not"
            )
    return values.astype(kind)


def _sized(image: Any, size: Size | None, mode: str) -> Pixels:
    """Pixels of an image, or of an array of one channel, resized: by nearest where they are numbers of a palette."""
    pillow = _pillow()
    height_width = image.shape if isinstance(image, np.ndarray) else image.size[::-1]
    if size is None or height_width == size:
        return np.asarray(image)
    if not isinstance(image, np.ndarray):
        how = pillow.Resampling.NEAREST if mode == "P" else pillow.Resampling.BILINEAR
        return np.asarray(image.resize(size[::-1], how))
    resized = np.asarray(pillow.fromarray(image.astype(np.float32)).resize(size[::-1], pillow.Resampling.BILINEAR))
    return resized if image.dtype.kind == "f" else np.rint(resized).astype(image.dtype)


# -- JPEG --------------------------------------------------------------------------------------------------------------
def _fast(data: bytes, size: Size | None, mode: str, max_pixels: int) -> Pixels | None:
    """The pixels of a JPEG by simplejpeg; None where Pillow must read them. Raises DataError as `read_image` does."""
    decoder = _simplejpeg()
    if decoder is None or mode not in ("RGB", "L") or not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colours, _ = decoder.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray"):
            return None
        _check_pixels(width, height, max_pixels)
        orientation = _orientation(data)
        upright = size if size is None or orientation < 5 else size[::-1]
        scale = 1 if upright is None else _scale(height, width, upright)
        if scale > 1 and min(height, width) < LEAST_SCALED:
            return None
        least = {} if scale == 1 else {"min_height": -(-height // scale), "min_width": -(-width // scale)}
        pixels = decoder.decode_jpeg(data, "GRAY" if mode == "L" else "RGB", **least)
    except ValueError:  # what a decoder does not take is Pillow's to judge
        return None
    pixels = pixels[:, :, 0] if mode == "L" else pixels
    if orientation == 1 and (size is None or pixels.shape[:2] == size):
        found: Pixels = pixels
        return found
    pillow = _pillow()
    image = pillow.fromarray(pixels)
    if orientation in _TURNS:
        image = image.transpose(getattr(pillow.Transpose, _TURNS[orientation]))
    return _sized(image, size, mode)


_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""How an image of each orientation (EXIF 2.32, tag 0x0112) is put upright."""


def _scale(height: int, width: int, size: Size) -> int:
    """The scale 1/8, 1/4 or 1/2 at which a JPEG is decoded and still is no smaller than `size`; Pillow's `draft` rule."""
    most = min(height // size[0], width // size[1])
    return next(s for s in (8, 4, 2, 1) if s <= max(most, 1))


def _orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG, 1 (upright) where it says none; only files that could say one are parsed for it."""
    head = data[: data.find(b"\xff\xda")]
    if b"Exif\x00" not in head and b"tiff:Orientation" not in head:
        return 1
    found = _pillow().open(io.BytesIO(data), formats=["JPEG"]).getexif().get(ORIENTATION, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _check_pixels(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise DataError(
            f"may be a decompression bomb: it says it is {width} x {height}, which is more than max_pixels={most}; raise that "
            "where it is not"
        )


def _is_deep_colour(image: Any) -> bool:
    """Whether a file has more than 8 bits a colour, which Pillow cuts off as it decodes."""
    if image.mode not in ("LA", "RGB", "RGBA", "RGBX", "CMYK") or not image.tile:
        return False
    decoder, _, _, args = image.tile[0]
    listed = args if isinstance(args, tuple) else (args,)
    if decoder == "ppm":
        return any(isinstance(most, int) and most > 255 for most in listed)
    return any(";16" in str(packing) for packing in listed)


def _pillow() -> Any:
    return require("PIL.Image", "images", "the source `image_folder`")


@functools.cache
def _simplejpeg() -> Any | None:
    """The decoder, where it is installed."""
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None
