"""Panels: what a task shows of its predictions, from plain data to what the page lays out.

A task gives dicts: `{"kind": "confusion", "title", "labels", "rows"}` (rows: true class, columns: predicted),
`{"kind": "samples", "title", "columns", "rows"}`, `{"kind": "scatter", "title", "x", "y", "points"}`,
`{"kind": "curves", "title", "x", "y", "lines": [{"label", "points"}], "diagonal"}`,
`{"kind": "bars", "title", "rows": [[label, value]]}`,
`{"kind": "images", "title", "items": [{"image": a data URI, "text", "boxes": [{"at": [x0, y0, x1, y1] in 0..1, "label"}]}]}`.
A panel of another kind, or one that cannot be read, is shown as its data. `mapsto.tasks.panels` makes them from arrays.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ...core.json_text import write_json
from . import charts

TABLE_CLASSES = 24
"""Up to so many classes the matrix is a table with its counts; beyond, a picture."""
LONGEST_TEXT = 2000
MOST_ROWS = 100
MOST_IMAGES = 64
PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")


def laid_out(panels: Sequence[Any]) -> list[dict[str, Any]]:
    """Each panel with all that the page shows of it."""
    makers = {
        "confusion": confusion, "samples": samples, "scatter": scatter, "curves": curves, "bars": bars, "images": images,
    }  # fmt: skip
    found = []
    for number, panel in enumerate(panels):
        kind = panel.get("kind") if isinstance(panel, Mapping) else None
        try:
            made = makers[str(kind)](panel)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError):
            made = {"kind": "other", "text": write_json(panel, indent=1)[:20_000]}
        title = str(panel.get("title", kind)) if isinstance(panel, Mapping) else "Panel"
        found.append({"title": title, "id": f"panel-{number}", **made})
    return found


# -- confusion ---------------------------------------------------------------------------------------------------------
def confusion(panel: Mapping[str, Any]) -> dict[str, Any]:
    """Counts, shares of each true class, precision, recall and F1 by class, and the pairs that are confused most."""
    rows = [[int(v) for v in row] for row in panel["rows"]]
    count = len(rows)
    if not count or any(len(row) != count for row in rows):
        raise ValueError("a confusion matrix is square")
    given = [str(label) for label in panel.get("labels") or ()]
    labels = [*given[:count], *(str(i) for i in range(len(given), count))]
    total = sum(map(sum, rows))
    classes = [measured(rows, i, labels[i]) for i in range(count)]
    present = [c for c in classes if c["support"]]
    pairs = sorted(((n, labels[i], labels[j]) for i, j, n in off_diagonal(rows)), key=lambda p: -p[0])[:10]
    return {
        "kind": "confusion",
        "total": total,
        "accuracy": sum(rows[i][i] for i in range(count)) / total if total else math.nan,
        "macro_f1": sum(c["f1"] for c in present) / len(present) if present else math.nan,
        "classes": classes if count <= TABLE_CLASSES else sorted(classes, key=lambda c: (not c["support"], c["f1"])),
        "labels": labels,
        "narrow": max(map(len, labels)) <= 3,
        "cells": [cells(row, i) for i, row in enumerate(rows)] if count <= TABLE_CLASSES else [],
        "image": None if count <= TABLE_CLASSES else picture(rows),
        "pairs": [{"count": n, "true": t, "predicted": p} for n, t, p in pairs],
    }


def measured(rows: Sequence[Sequence[int]], i: int, label: str) -> dict[str, Any]:
    """Precision, recall and F1 (their harmonic mean) of one class; zero where there is nothing to divide by."""
    support, predicted, right = sum(rows[i]), sum(row[i] for row in rows), rows[i][i]
    precision = right / predicted if predicted else 0.0
    recall = right / support if support else 0.0
    f1 = 2 * right / (support + predicted) if support + predicted else 0.0
    return {"label": label, "support": support, "precision": precision, "recall": recall, "f1": f1}


def off_diagonal(rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, int]]:
    """(true, predicted, count) of every confusion that occurs."""
    return ((i, j, n) for i, row in enumerate(rows) for j, n in enumerate(row) if i != j and n)


def cells(row: Sequence[int], i: int) -> list[dict[str, Any]]:
    """One row of the matrix: its counts and, as a whole percentage, the strength of each cell's colour."""
    whole = sum(row) or 1
    return [
        {"count": n, "right": i == j, "strength": _strength(n / whole, i == j), "share": n / whole} for j, n in enumerate(row)
    ]


def _strength(part: float, right: bool) -> int:
    """Few mistakes must still be seen: their colour grows with the root of their share."""
    return round(100 * (part if right else math.sqrt(part)) * 0.85)


def picture(rows: Sequence[Sequence[int]]) -> str:
    """The matrix as a PNG data URI, a pixel a cell: right ones blue, wrong ones red, the rest transparent."""
    import numpy as np
    from matplotlib.image import imsave

    counts = np.asarray(rows, dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    pixels = np.zeros((*shares.shape, 4))
    pixels[..., :3] = (0.84, 0.27, 0.20)
    pixels[..., 3] = np.where(shares > 0, 0.15 + 0.85 * np.sqrt(shares), 0.0)
    diagonal = np.arange(len(rows))
    pixels[diagonal, diagonal, :3] = (0.15, 0.42, 0.83)
    pixels[diagonal, diagonal, 3] = shares[diagonal, diagonal]
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# -- samples and points ------------------------------------------------------------------------------------------------
def samples(panel: Mapping[str, Any]) -> dict[str, Any]:
    """Records as rows of runs of text; in a column `predicted` what differs from the column `true` is marked."""
    columns = [str(c) for c in panel["columns"]]
    true, predicted = (columns.index(n) if n in columns else -1 for n in ("true", "predicted"))
    rows = []
    for row in panel["rows"]:
        texts = [_text(value) for value in row]
        runs = [[(text, False)] for text in texts]
        if 0 <= true < len(texts) and 0 <= predicted < len(texts):
            runs[predicted] = marked(texts[predicted], texts[true])
        rows.append(runs)
    return {"kind": "samples", "columns": columns, "rows": rows[:MOST_ROWS], "left_out": len(rows[MOST_ROWS:])}


def marked(text: str, true: str) -> list[tuple[str, bool]]:
    """Runs of text and whether they differ from `true`: character by character where both are equally long."""
    if text == true or len(text) != len(true):
        return [(text, text != true)]
    pairs = groupby(zip(text, true, strict=True), key=lambda pair: pair[0] != pair[1])
    return [("".join(a for a, _ in run), differs) for differs, run in pairs]


def scatter(panel: Mapping[str, Any]) -> dict[str, Any]:
    """Points, those that are not finite left out and counted."""
    points = [(float(x), float(y)) for x, y in panel["points"]]
    finite = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
    title = str(panel.get("title", "scatter"))
    return {
        "kind": "scatter",
        "x": str(panel.get("x", "x")),
        "y": str(panel.get("y", "y")),
        "svg": charts.scatter(finite, title) if finite else None,
        "count": len(finite),
        "left_out": len(points) - len(finite),
    }


def curves(panel: Mapping[str, Any]) -> dict[str, Any]:
    """Lines over an axis of their own; points that are not finite are left out."""
    lines = []
    for number, line in enumerate(panel["lines"]):
        points = [(float(x), float(y)) for x, y in line["points"]]
        kept = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
        lines.append((str(line.get("label", number)), kept))
    names = str(panel.get("x", "x")), str(panel.get("y", "y"))
    svg = charts.curves(lines, str(panel.get("title", "curves")), names, diagonal=bool(panel.get("diagonal")))
    keys = [(i % charts.SERIES, label) for i, (label, _) in enumerate(lines)]
    return {"kind": "curves", "svg": svg, "legend": keys if len(keys) > 1 else []}


def bars(panel: Mapping[str, Any]) -> dict[str, Any]:
    """A value a label, drawn as shares of the largest."""
    rows = [(str(label), float(value)) for label, value in panel["rows"]]
    most = max((abs(v) for _, v in rows if math.isfinite(v)), default=0.0) or 1.0
    shown = [
        {"label": label, "value": f"{v:.4g}", "width": 100 * max(v, 0.0) / most if math.isfinite(v) else 0.0}
        for label, v in rows
    ]
    return {"kind": "bars", "rows": shown[:MOST_ROWS], "left_out": len(shown[MOST_ROWS:])}


def images(panel: Mapping[str, Any]) -> dict[str, Any]:
    """Pictures with a text and boxes; a picture is a data URI, so that the page loads nothing."""
    items = []
    for item in panel["items"][:MOST_IMAGES]:
        if not PICTURE.fullmatch(item["image"]):
            raise ValueError("a picture is a data URI of PNG or JPEG")
        found = []
        for box in item.get("boxes") or ():
            x0, y0, x1, y1 = (100 * min(max(float(v), 0.0), 1.0) for v in box["at"])
            found.append({"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "label": str(box.get("label", ""))})
        items.append({"image": item["image"], "text": _text(item.get("text", "")), "boxes": found})
    return {"kind": "images", "items": items, "left_out": len(panel["items"][MOST_IMAGES:])}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else write_json(value)
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " …"
