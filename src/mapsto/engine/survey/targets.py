"""Targets: which classes there are, in what order they come, and whether the input holds them already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .fields import COLUMNS, Array, array_of
from .summary import Classes, Label

LEAST, OF_A_CLASS = 30, 5
"""Records, in all and of a class, below which an input that goes with the label may be chance."""
NAMED = 100


def labels_of(values: Any) -> Array | None:
    """Class numbers or names of a field, one a record; None where its values are no classes."""
    if isinstance(values, (list, tuple)) and values and all(isinstance(v, str) for v in values):
        return np.asarray(values)
    found = array_of(values)
    if found is None or not len(found):
        return None
    if found.ndim == 2 and found.shape[1] > 1 and found.dtype.kind == "f":  # probabilities
        sums = found.sum(1)
        return found.argmax(1) if bool(np.all(np.abs(sums - 1) < 1e-3)) and bool((found >= 0).all()) else None
    found = found.reshape(len(found)) if found.size == len(found) else found
    if found.ndim != 1:
        return None
    if found.dtype.kind == "f":  # numbers that stand for classes are few and whole
        whole = bool(np.isfinite(found).all()) and bool((found == np.round(found)).all())
        return found.astype(np.int64) if whole and len(np.unique(found[:4096])) <= 20 else None
    return found


def classes_of(labels: Array, blocks: Sequence[Array] = ()) -> Classes:
    """How many records each class has; blocks: the labels of batches in the order that is trained in."""
    counts = Counter(labels.tolist())
    pairs = [_same(block) for block in blocks if len(block) >= 4]
    run = float(np.mean(pairs)) if pairs else None
    named = [(str(label), n) for label, n in counts.most_common(NAMED)]
    return Classes(named, len(counts), len(labels), run, _same(labels) if pairs and len(labels) > 1 else None)


def _same(labels: Array) -> float:
    """The share of pairs that have one class."""
    _, counts = np.unique(labels, return_counts=True)
    return float((counts * (counts - 1.0)).sum() / (len(labels) * (len(labels) - 1.0)))


def labels_within(inputs: Mapping[str, Any], target: Any) -> list[Label]:
    """What of the inputs is the label: columns that are one-to-one with the class or perfectly correlated with the number,
    an input that is the target, texts that begin or end with their class."""
    found: list[Label] = []
    wanted, labels = array_of(target), labels_of(target)
    for name, value in inputs.items():
        rows = array_of(value)
        if rows is None:
            if labels is not None and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
                found += _in_texts(name, value, labels)
            continue
        if wanted is not None and wanted.ndim > 1 and wanted.shape == rows.shape and rows.dtype.kind in "iu":
            if len(np.unique(rows)) > 1 and bool((rows == wanted).all()):
                found.append(Label(name, "identical", [], True, len(rows)))
            continue
        rows = rows.reshape(len(rows), -1)
        if rows.shape[1] <= COLUMNS:
            if labels is not None:
                found += _one_to_one(name, rows, labels)
            elif wanted is not None and wanted.size == len(rows) and (rows.shape[1] > 1 or len(inputs) > 1):
                found += _correlated(name, rows, wanted.reshape(-1))
    return found


def _common(labels: Array) -> tuple[Array, Array]:
    """Codes of the labels and which records to look at: those of classes that are no rarity."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(counts[codes] >= OF_A_CLASS)
    return codes, kept


def _one_to_one(name: str, rows: Array, labels: Array) -> list[Label]:
    codes, kept = _common(labels)
    if len(kept) < LEAST or len(np.unique(codes[kept])) < 2:
        return []
    kept = kept[np.argsort(codes[kept], kind="stable")]
    held, codes = rows[kept], codes[kept]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    low, high = np.minimum.reduceat(held, starts, axis=0), np.maximum.reduceat(held, starts, axis=0)
    of_class = (low == high).all(0) & (low != low[:1]).any(0)  # one value in each class, and not the same in all
    columns = np.flatnonzero(of_class)
    if not len(columns):
        return []
    whole = len(np.unique(low[:, columns], axis=0)) == len(starts)
    return [Label(name, "one-to-one", columns[:8].tolist(), whole, len(held))]


def _correlated(name: str, rows: Array, target: Array) -> list[Label]:
    rows, target = rows.astype(np.float64), target.astype(np.float64)
    kept = np.isfinite(rows).all(1) & np.isfinite(target)
    rows, target = rows[kept], target[kept]
    if len(rows) < LEAST or np.ptp(target) == 0:
        return []
    rows, target = rows - rows.mean(0), target - target.mean()
    lengths = np.sqrt(np.square(rows).sum(0)) * np.sqrt(np.square(target).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.abs(rows.T @ target) / lengths
    columns = np.flatnonzero(correlation > 1 - 1e-8)
    return [Label(name, "correlated", columns[:8].tolist(), True, len(rows))] if len(columns) else []


def _in_texts(name: str, texts: Sequence[str], labels: Array) -> list[Label]:
    """Texts whose first or last word is one-to-one with the class."""
    codes, kept = _common(labels)
    if len(kept) < LEAST or (classes := len(np.unique(codes[kept]))) < 2:
        return []
    for place in (0, -1):
        words = [(texts[i].split() or [""])[place] for i in kept.tolist()]
        pairs = set(zip(words, codes[kept].tolist(), strict=True))
        if len(pairs) == len(set(words)) == classes:
            return [Label(name, "in the text", [place], True, len(kept))]
    return []
