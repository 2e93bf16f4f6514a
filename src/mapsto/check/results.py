"""The results of a check: verdicts, the laws they are of, what owes no law, and with which versions and seed."""

from __future__ import annotations

import functools
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from ..core.laws import BAD, Law, Subject, Verdict
from ..core.registry import registry
from .runner import ORDER, record
from .targets import Problem

UNUSABLE = "target"
"""What stands in a verdict for the law where the target itself cannot be used."""


@dataclass(kw_only=True)
class Results:
    """What a check found.

    laws: by name and wing; lawless: subjects of kinds without (chosen) laws; untouched: how many subjects were left out since
    nothing of theirs changed; seconds: from start to end; left: how many laws were not judged since the check was interrupted;
    remarks: what else there is to say, such as of entries of a baseline.
    """

    verdicts: list[Verdict]
    laws: Mapping[tuple[str, str | None], Law]
    lawless: list[Subject] = field(default_factory=list)
    untouched: int = 0
    seed: int = 0
    seconds: float = 0.0
    left: int = 0
    remarks: list[str] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """Whether nothing failed, is unknown or vacuous, all was judged, and something passed, unless nothing was touched."""
        if self.left or self.bad:
            return False
        return self.idle or any(v.status in ("pass", "expected failure", "known failure") for v in self.verdicts)

    @property
    def idle(self) -> bool:
        """Whether nothing had to be judged: no subject was touched by what changed."""
        return bool(self.untouched) and not self.verdicts and not self.lawless

    def law(self, made: Verdict) -> Law | None:
        """The law that a verdict is of: of the subject's wing, or neutral."""
        return self.laws.get((made.law, made.wing)) or self.laws.get((made.law, None))

    @property
    def bad(self) -> list[Verdict]:
        """Verdicts with which a check does not succeed."""
        return [v for v in self.verdicts if v.status in BAD]

    @property
    def counts(self) -> Counter[str]:
        """How many verdicts of each status."""
        return Counter(v.status for v in self.verdicts)

    @property
    def exercised(self) -> int:
        """How many comparisons and demands were made."""
        return sum(sum(v.counts.values()) for v in self.verdicts)

    @property
    def controls(self) -> int:
        """How many controls differed, as they had to."""
        return sum(sum(v.controls.values()) for v in self.verdicts)

    def kinds(self) -> dict[str, list[str]]:
        """Kind -> its subjects, both in the order they were named; targets that cannot be used are left out."""
        found: dict[str, list[str]] = {}
        for v in self.verdicts:
            if v.law != UNUSABLE and v.subject not in found.setdefault(v.kind, []):
                found[v.kind].append(v.subject)
        return found

    def of(self, kind: str, subject: str) -> list[Verdict]:
        """The verdicts of a subject."""
        return [v for v in self.verdicts if v.kind == kind and v.subject == subject]

    def groups(self, *statuses: str) -> list[list[Verdict]]:
        """Verdicts of these statuses, the worst first; a subject's that could not be told for one reason stand together."""
        found: dict[tuple[str, ...], list[Verdict]] = {}
        for v in self.verdicts:
            if v.status in statuses:
                alone = v.law if v.status != "unknown" else ""
                found.setdefault((v.kind, v.subject, v.status, v.reason, alone), []).append(v)
        return sorted(found.values(), key=lambda group: ORDER.index(group[0].status))

    def summary(self) -> str:
        """A sentence that says how many verdicts of each status there are, and how long the check took."""
        subjects = {(v.kind, v.subject) for v in self.verdicts}
        statuses = ", ".join(f"{n} {status}" for status, n in sorted(self.counts.items(), key=lambda item: item[0] not in BAD))
        judged = f"{len(self.verdicts)} verdicts on {len(subjects)} {'mapping' if len(subjects) == 1 else 'mappings'}"
        nothing = "nothing was touched, and so nothing was judged" if self.idle else "nothing was judged"
        what = f"{judged}: {statuses}" if self.verdicts else nothing
        proof = f"; {self.exercised:,} comparisons, {self.controls:,} controls that differed" if self.exercised else ""
        left = f"; interrupted, {self.left} laws were not judged" if self.left else ""
        return f"{what}{proof}{left} ({self.seconds:.1f} s, seed {self.seed})"


def of_problem(problem: Problem, seed: int) -> Verdict:
    """A target that cannot be used, as a verdict."""
    return Verdict(
        subject=problem.subject, kind=problem.kind or "?", law=UNUSABLE, id="", priority=0, status="unknown",
        reason=problem.reason, seed=seed,
    )  # fmt: skip


@functools.cache
def versions() -> dict[str, str]:
    """Python, the machine, mapsto, NumPy and the frameworks of all wings, without importing them."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in ("mapsto", *(package for f in registry.frameworks() for package in f.packages[:1]), "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# -- JSON lines --------------------------------------------------------------------------------------------------------
def json_verdict(made: Verdict, law: Law | None) -> dict[str, Any]:
    """The record of a verdict, whole in itself; law: None where the name has none."""
    said = {} if law is None else {name: getattr(law, name) for name in ("statement", "tolerance", "why", "satisfy")}
    return {**record(made), **said, "versions": versions()}


def json_lawless(subject: Subject, seed: int) -> dict[str, Any]:
    """The record of a mapping that owes no law, or none that was asked for."""
    return {
        "subject": subject.label, "kind": subject.kind, "law": None, "status": "owes no law", "seed": seed,
        "versions": versions(),
    }  # fmt: skip


def json_end(results: Results, code: int) -> dict[str, Any]:
    """The last record: without it a check was killed, or runs still."""
    return {
        "end": {
            "exit_code": code, "verdicts": len(results.verdicts), "counts": dict(results.counts), "left": results.left,
            "untouched": results.untouched, "remarks": results.remarks, "seconds": results.seconds, "seed": results.seed,
        }
    }  # fmt: skip
