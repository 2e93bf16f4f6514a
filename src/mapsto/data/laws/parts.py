"""Laws of sources that are parts of a source: disjoint, complete, and split as they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.laws import Laws, Trial
from ..adapt import as_source
from .contents import fields_of, keys_of
from .examples import own, source_of

laws = Laws("source")
MOST = 5000
"""Records of a part that are all read and compared, at most."""
OWN: tuple[str, tuple[str, ...]] = ("part", ("rest", "held_out"))
"""The option of our own splits, and its values."""


@laws.law(
    "D21",
    "parts",
    priority=0,
    why="A record that is trained on and judged by makes every figure better than it is; a patient, a user or a day in both "
    "parts does so as well.",
    satisfy="Compute the parts from one draw that does not depend on which is asked for; state parts=(option, values), and "
    "together=FIELD or ordered=FIELD where that is what they are for.",
    catches=(
        "parts that are drawn by different seeds",
        "a fold that lacks the records of an uneven rest",
        "a patient's images on both sides",
        "a cut in time that lets later records into the training part",
    ),
)
def parts(trial: Trial) -> None:
    """Each record is in one part, and all are in some; the same ones when it is built again.

    With `together` no value of that field is in two parts; with `ordered` a part's values come after those of the parts before.
    """
    more = trial.example.more
    ours = own(trial.subject.target) and trial.subject.target.__name__ in ("Split", "Fold")
    stated = more.get("parts", OWN if ours else None)
    if stated is None:
        trial.skip("it states no parts: parts=(option, its values)")
    if trial.subject.make is not None and not trial.example.args:
        trial.skip("an instance has one part of it")
    option, values = stated
    found, whole = _read(trial, option, values)
    counted = [key for keys, _ in found for key in keys]
    twice = sorted(str(key) for key, times in Counter(counted).items() if times > 1)
    trial.demand(
        not twice, f"{len(twice)} records are in two parts, such as {', '.join(twice[:3])}", measured=len(twice), allowed=0,
        cause="the draw depends on which part is asked for",
    )  # fmt: skip
    if whole is not None:
        lost = sorted({str(key) for key in set(whole) - set(counted)})
        trial.demand(
            len(counted) == len(whole), f"the parts have {len(counted)} records, the whole {len(whole)}: {', '.join(lost[:3])}",
            measured=len(counted), allowed=len(whole), cause="some are in no part" if lost else None,
        )  # fmt: skip
    again, _ = _read(trial, option, values)
    trial.demand([keys for keys, _ in again] == [keys for keys, _ in found], "built again it has other records")
    if (field := more.get("together")) is not None:
        _apart(trial, field, [batch for _, batch in found])
    if (field := more.get("ordered")) is not None:
        _after(trial, field, [batch for _, batch in found], values)
    trial.exercised("records", len(counted))
    trial.control("every part has records", all(keys for keys, _ in found))


def _read(trial: Trial, option: str, values: Sequence[Any]) -> tuple[list[tuple[list[Any], dict[str, Any]]], list[Any] | None]:
    """(records, fields) of each part, and the records of the whole, where it is an argument `source`."""
    subject, found, whole = trial.subject, [], None
    with source_of(trial):
        arguments = trial.example.more["arguments"] if "arguments" in trial.example.more else dict(trial.example.args)
    try:
        for value in values:
            args = subject.example.args if "in_folder" in subject.example.more else arguments
            trial.subject = replace(subject, make=None, example=replace(subject.example, args={**args, option: value}))
            with source_of(trial) as part, trial.case(**{option: str(value)}), trial.component("reading a part"):
                if len(part) > MOST:
                    trial.skip(f"a part holds {len(part)} records; what splits them is judged on fewer, by itself")
                batch = part[np.arange(len(part))]
                found.append((keys_of(batch), fields_of(batch)))
                inner = getattr(part, "source", None)
                if whole is None and inner is not None and not isinstance(inner, (str, bytes)):
                    inner = as_source(inner)
                    whole = keys_of(inner[np.arange(len(inner))])
    finally:
        trial.subject = subject
    return found, whole


def _apart(trial: Trial, field: str, batches: list[dict[str, Any]]) -> None:
    seen = [set(np.asarray(batch[field]).tolist()) for batch in batches]
    both = sorted({str(v) for i, one in enumerate(seen) for other in seen[:i] for v in one & other})
    trial.demand(
        not both, f"values of {field!r} are in two parts: {', '.join(both[:3])}", measured=len(both), allowed=0,
        first={"field": field}, cause="records are drawn, and not groups",
    )  # fmt: skip


def _after(trial: Trial, field: str, batches: list[dict[str, Any]], values: Sequence[Any]) -> None:
    for (name, before), (other, after) in zip(
        zip(values, batches, strict=True), list(zip(values, batches, strict=True))[1:], strict=False
    ):
        last, first = max(np.asarray(before[field]).tolist()), min(np.asarray(after[field]).tolist())
        trial.demand(
            last <= first, f"{field!r} reaches {last} in the part {name!r}, and begins with {first} in {other!r}",
            first={"field": field}, cause="the cut is not where the values are in order",
        )  # fmt: skip
