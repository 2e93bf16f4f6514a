"""Metrics of spans that labels of tokens mark, and of times until an event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from ...core.errors import DataError, SpecError
from ..metric import Array, Metric, Result, Statistics, quotient

Span = tuple[int, int, str]


class SpanF1(Metric):
    """Precision, recall and F1 of whole spans, all kinds together: one is right where kind, beginning and end are.

    labels: the classes' names: `B-KIND` begins a span, `I-KIND` goes on with it (or begins one, where none of its kind goes
    before: as in the shared task of CoNLL 2003), `B` and `I` do where there is one kind, anything else is outside. Tokens that
    do not count, such as later pieces of a word, are as if they were not there. Raises SpecError for labels that mark no span,
    DataError where rows are no sequences.
    """

    def __init__(self, labels: Sequence[str] = ("O", "B", "I")) -> None:
        self.labels = list(labels)
        if not any(_marked(name)[0] for name in self.labels):
            raise SpecError(f"span_f1.labels: {self.labels[:5]} mark no spans: B-KIND and I-KIND are wanted")

    @property
    def name(self) -> str:
        return "span_f1"

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        label: Any = prediction["label"]
        if label.ndim != 2 or label.shape != target.shape:
            raise DataError(
                f"span_f1: labels {list(label.shape)} and targets {list(target.shape)}: whole sequences [B, T] are wanted"
            )
        counts = np.zeros(3, np.int64)
        for row in range(len(label)):
            kept = np.ones(label.shape[1], bool) if mask is None else mask[row]
            found, due = self.spans(label[row], kept), self.spans(target[row], kept)
            counts += np.array([len(found & due), len(found), len(due)])
        return {"right": counts[0], "found": counts[1], "due": counts[2]}

    def finish(self, totals: Statistics) -> Result:
        right, found, due = totals["right"], totals["found"], totals["due"]
        return {"f1": quotient(2 * right, found + due), "precision": quotient(right, found), "recall": quotient(right, due)}

    def spans(self, classes: Array, kept: Array) -> set[Span]:
        """(first token, one after the last that counts, kind) of the spans of a sequence [T]."""
        made: set[Span] = set()
        begun, end, kind = 0, 0, None
        for at in [*np.flatnonzero(kept).tolist(), -1]:  # the last ends what is open
            mark, own = _marked(self.labels[classes[at]]) if at >= 0 else ("", "")
            if kind is not None and (mark != "I" or own != kind):
                made.add((begun, end, kind))
                kind = None
            if mark and kind is None:
                begun, kind = at, own
            end = at + 1
        return made


def _marked(name: str) -> tuple[str, str]:
    """(B or I, the kind) of a label; ("", "") of one outside."""
    mark, dash, kind = name.partition("-")
    return (mark, kind) if mark in ("B", "I") and bool(dash) == bool(kind) else ("", "")


class Concordance(Metric):
    """The share of pairs whose order is told right, of those in which the earlier event was seen; equal values count a half.

    `value` is larger for those without an event for longer; target [B, 2]: the time, and whether the event was seen (Harrell
    et al. 1982). Of two equal times the one whose event was seen is the earlier.
    """

    reads: ClassVar[tuple[str, ...]] = ("value",)
    keep: ClassVar[Literal["sums", "records"]] = "records"
    ROWS = 1024

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        value: Any = prediction["value"]
        if target.ndim != 2 or target.shape[1] != 2 or value.shape != target.shape[:1]:
            raise DataError(f"concordance: values {list(value.shape)}, targets {list(target.shape)}: [B] and [B, 2] are wanted")
        if mask is not None:  # of the entries of a record both count, or it does not
            kept = mask.reshape(len(mask), -1).all(1)
            value, target = value[kept], target[kept]
        return {"value": value.astype(np.float64), "due": target.astype(np.float64)}

    def finish(self, totals: Statistics) -> Result:
        value, (time, event) = totals["value"], totals["due"].reshape(-1, 2).T
        right = pairs = 0.0
        for start in range(0, len(value), self.ROWS):  # the earlier of each pair
            i = slice(start, start + self.ROWS)
            later = (time[i, None] < time) | ((time[i, None] == time) & (event == 0))
            compared = later & (event[i, None] > 0)
            right += float((compared & (value[i, None] < value)).sum()) + 0.5 * float(
                (compared & (value[i, None] == value)).sum()
            )
            pairs += float(compared.sum())
        return quotient(right, pairs)
