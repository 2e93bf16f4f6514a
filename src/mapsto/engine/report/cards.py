"""The cards of a page: what the data were, as their survey saw them, and the model by its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..figures import number, share
from ..record import RunRecord, as_float

MOST_CLASSES = 24
"""Classes of a set whose shares are drawn, the most frequent first."""


def data_cards(record: RunRecord) -> list[dict[str, Any]]:
    """A card a set of data: how many records and batches, each field with its shape and range, and the classes' shares."""
    sets = record.survey.get("sets")
    found = []
    for name, told in sets.items() if isinstance(sets, Mapping) else ():
        if isinstance(told, Mapping):
            fields = told.get("fields")
            rows = [_field(n, f) for n, f in fields.items() if isinstance(f, Mapping)] if isinstance(fields, Mapping) else []
            found.append({"name": str(name), "facts": _facts(told), "fields": rows, **_classes(told)})
    return sorted(found, key=lambda card: (card["name"] != "train", card["name"].startswith("test")))


def _facts(told: Mapping[str, Any]) -> str:
    """How much there is, and how much of it was looked at."""
    records, read = told.get("records"), told.get("read")
    parts = [f"{records:,} records"] if isinstance(records, int) else []
    parts += [f"{read:,} of them looked at"] if isinstance(read, int) and read != records else []
    return " · ".join(parts)


def _field(name: str, told: Mapping[str, Any]) -> dict[str, str]:
    tail = told.get("tail")
    shape = ["records", *map(str, tail)] if isinstance(tail, Sequence) and not isinstance(tail, str) else []
    low, high, mean, std = (as_float(told.get(key)) for key in ("low", "high", "mean", "std"))
    numeric = told.get("kind") == "number" and low == low
    return {
        "name": str(name),
        "type": str(told.get("dtype") or told.get("kind") or ""),
        "shape": f"[{', '.join(shape)}]" if shape else "",
        "range": f"{number(low)} to {number(high)}" if numeric else "",
        "mean": f"{number(mean)} ± {number(std)}" if numeric else "",
    }


def _classes(told: Mapping[str, Any]) -> dict[str, Any]:
    classes = told.get("classes")
    counts = classes.get("counts") if isinstance(classes, Mapping) else None
    pairs = [(str(c[0]), int(c[1])) for c in counts or () if isinstance(c, Sequence) and len(c) == 2 and isinstance(c[1], int)]
    total, most = sum(n for _, n in pairs) or 1, max((n for _, n in pairs), default=1)
    rows = [{"label": label, "count": n, "share": share(n / total), "width": 100 * n / most} for label, n in pairs]
    return {"classes": rows[:MOST_CLASSES], "left_out": len(rows[MOST_CLASSES:])}


def layer_rows(record: RunRecord) -> list[dict[str, Any]]:
    """A row a layer that has parameters of its own: its name and class, how many, and whether they are trained."""
    layers = record.summary.get("layers")
    rows = [r for r in layers if isinstance(r, Mapping)] if isinstance(layers, list) else []
    counts = [r["parameters"] if isinstance(r.get("parameters"), int) else 0 for r in rows]
    whole = sum(counts) or 1
    return [
        {
            "name": str(row.get("name", "")),
            "class": str(row.get("class", "")),
            "parameters": f"{n:,}",
            "width": 100 * n / whole,
            "trained": "" if row.get("trained", True) else "frozen",
        }
        for row, n in zip(rows, counts, strict=True)
    ]
