"""Panels of a report (see `mapsto.engine.report`), from arrays: plain data that JSON can hold."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

POINTS = 2000
"""Points of a scatter plot that are kept."""


def confusion(
    predicted: NDArray[np.int64], target: NDArray[np.int64], classes: int, labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """How many records of each class (rows) were taken for which (columns); both are class numbers, [records]."""
    classes = max(classes, int(target.max(initial=0)) + 1)
    return matrix(np.bincount(target * classes + predicted, minlength=classes * classes).reshape(classes, classes), labels)


def matrix(counts: NDArray[Any], labels: Sequence[str] | None = None) -> dict[str, Any]:
    """The same of counts [true classes, predicted classes]."""
    named = list(labels or map(str, range(len(counts))))
    return {"kind": "confusion", "title": "Confusion matrix", "labels": named, "rows": counts.tolist()}


def scatter(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, Any]:
    """Predicted against true numbers, [records] each."""
    points = list(zip(true[:POINTS].tolist(), predicted[:POINTS].tolist(), strict=True))
    return {"kind": "scatter", "title": "Predicted against true", "x": "true", "y": "predicted", "points": points}


def curves(
    title: str, x: str, y: str, lines: Mapping[str, Sequence[tuple[float, float]]], *, diagonal: bool = False
) -> dict[str, Any]:
    """Lines by name over an axis of their own, such as ROC, precision over recall, calibration (with the diagonal)."""
    drawn = [{"label": name, "points": [(float(a), float(b)) for a, b in points]} for name, points in lines.items()]
    return {"kind": "curves", "title": title, "x": x, "y": y, "lines": drawn, "diagonal": diagonal}


def bars(title: str, values: Mapping[str, float]) -> dict[str, Any]:
    """A number a name, such as a score of each class."""
    return {"kind": "bars", "title": title, "rows": [[name, float(value)] for name, value in values.items()]}


def images(
    title: str,
    pictures: Sequence[NDArray[Any]],
    texts: Sequence[str] = (),
    boxes: Sequence[Sequence[tuple[Sequence[float], str]]] = (),
) -> dict[str, Any]:
    """Pictures, [height, width] or [height, width, 1, 3 or 4], bytes or numbers in 0..1, each with a text.

    boxes: of each picture (corners x0, y0, x1, y1 as shares of width and height, label). Raises ValueError for other shapes.
    """
    items = []
    for i, picture in enumerate(pictures):
        drawn = [{"at": [float(v) for v in at], "label": label} for at, label in (boxes[i] if i < len(boxes) else ())]
        items.append({"image": png(picture), "text": texts[i] if i < len(texts) else "", "boxes": drawn})
    return {"kind": "images", "title": title, "items": items}


def png(picture: NDArray[Any]) -> str:
    """A picture as the data URI of a PNG (ISO/IEC 15948), which a page can hold. Raises ValueError where it is none."""
    array = picture[..., 0] if picture.ndim == 3 and picture.shape[-1] == 1 else picture
    channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
    if channels not in (1, 3, 4) or not array.size:
        raise ValueError(
            f"a picture of shape {list(picture.shape)}, and [height, width] or [height, width, 1, 3 or 4] is wanted"
        )
    if array.dtype != np.uint8:
        array = (np.nan_to_num(np.clip(array.astype(float), 0, 1)) * 255).round().astype(np.uint8)
    height, width = array.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), array.reshape(height, -1)], axis=1)  # 0: no filter

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)), chunk(b"IEND", b""))
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


def samples(title: str, columns: list[str], rows: list[list[str]]) -> dict[str, Any]:
    """A table of text, a row a record."""
    return {"kind": "samples", "title": title, "columns": columns, "rows": rows}
