"""What a diagnosis is made of: findings with their evidence, and what could be looked at."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


class Gravity(enum.IntEnum):
    """How bad it is; worse ones are told first."""

    NOTE = 0
    """Something to know, which may well be meant so: a run with nothing else is healthy."""
    COSTLY = 1
    """It costs time, memory or the chance to go on; the numbers are right."""
    WRONG = 2
    """What was learned is wrong, or less than it could be."""
    FATAL = 3
    """The run ended, or stands still, because of it."""


@dataclass(frozen=True)
class Finding:
    """Something that was wrong with a run.

    name: of what found it; title: one sentence; evidence: sentences with steps and values; where: files and lines to look
    at; advice: what to do, the likeliest first; steps: the first and last it was seen at; values: figures, for programs;
    cost: the share of the run (0 to 1) that it concerns, which ranks findings of one gravity; explains: the titles of
    findings that follow from this one.
    """

    name: str
    gravity: Gravity
    title: str
    evidence: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    steps: tuple[int, int] | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    cost: float = 1.0
    explains: tuple[str, ...] = ()

    def to_data(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "name": self.name,
            "gravity": self.gravity.name.lower(),
            "title": self.title,
            "evidence": list(self.evidence),
            "where": list(self.where),
            "advice": list(self.advice),
            "steps": list(self.steps) if self.steps else None,
            "values": dict(self.values),
            "explains": list(self.explains),
        }


@dataclass(frozen=True)
class Diagnosis:
    """What was found in a run folder, gravest first; `looked` is what was looked at and `unseen` what could not be, each
    by the name of the detector."""

    folder: Path
    status: str
    findings: tuple[Finding, ...]
    looked: Mapping[str, str]
    unseen: Mapping[str, str]

    @property
    def healthy(self) -> bool:
        """Whether there is nothing but notes."""
        return all(found.gravity == Gravity.NOTE for found in self.findings)

    def to_data(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "folder": str(self.folder),
            "status": self.status,
            "healthy": self.healthy,
            "findings": [found.to_data() for found in self.findings],
            "looked": dict(self.looked),
            "unseen": dict(self.unseen),
        }


EXPLAINS = {
    "targets_outside": ("crashed",),
    "ids_outside": ("crashed",),
    "input_nonfinite": ("nonfinite", "weights_unchanged", "loss_stuck", "loss_diverging", "no_gradient", "loss_scale"),
    "input_scale": ("nonfinite", "loss_stuck", "loss_diverging", "update_too_small", "update_too_large"),
    "input_constant": ("loss_stuck", "records_repeated", "records_shared"),
    "input_blank": ("loss_stuck", "records_repeated", "records_shared"),
    "labels_sorted": ("loss_stuck",),
    "sets_differ": ("overfitting",),
    "steps_skipped": ("nonfinite", "weights_unchanged", "loss_stuck"),
    "update_too_large": ("loss_diverging",),
    "evaluation_training": ("evaluation_random",),
    "learning_rate_zero": ("weights_unchanged", "loss_stuck"),
    "weights_unchanged": ("loss_stuck",),
    "nonfinite": ("crashed", "weights_unchanged", "loss_stuck", "loss_diverging", "no_gradient", "loss_scale"),
    "loss_scale": ("weights_unchanged", "loss_stuck"),
    "no_gradient": ("weights_unchanged",),
    "data_starved": ("throughput_dropping", "slow_rank"),
    "stalled": ("killed", "crashed"),
}
"""What follows from what: a cause takes its consequences in, so that one fault is told once."""


def ranked(findings: list[Finding]) -> tuple[Finding, ...]:
    """The findings, gravest first and, of one gravity, costliest first; a cause holds the titles of its consequences.

    A cause is at least as grave as what it explains.
    """
    by_name: dict[str, list[Finding]] = {}  # one of each data set, where sets have faults of their own
    for found in findings:
        by_name.setdefault(found.name, []).append(found)
    taken: set[str] = set()
    for name, others in EXPLAINS.items():
        if name not in by_name or name in taken:
            continue
        there = [found for other in others if other not in taken for found in by_name.get(other, ())]
        first, *more = by_name[name]
        titles = tuple(title for other in there for title in (other.title, *other.explains))
        gravity = Gravity(max([first.gravity, *(other.gravity for other in there)]))
        by_name[name] = [replace(first, gravity=gravity, explains=(*first.explains, *titles)), *more]
        taken |= {other.name for other in there}
    kept = [found for name, several in by_name.items() if name not in taken for found in several]
    return tuple(sorted(kept, key=lambda f: (-f.gravity, -f.cost)))
