"""The results of a check: verdicts, the laws they are of, what owes no law, and with which versions and seed."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from ..core.json_text import write_json
from ..core.laws import BAD, Law, Subject, Verdict
from ..core.registry import registry
from .runner import ORDER, record
from .targets import Problem

UNUSABLE = "target"
"""What stands in a verdict for the law where the target itself cannot be used."""


@dataclass(kw_only=True)
class Results:
    """What a check found.

    laws: by name and wing; lawless: subjects of kinds without (chosen) laws; seconds: from start to end; left: how many laws
    were not judged since the check was interrupted.
    """

    verdicts: list[Verdict]
    laws: Mapping[tuple[str, str | None], Law]
    lawless: list[Subject] = field(default_factory=list)
    seed: int = 0
    seconds: float = 0.0
    left: int = 0

    @property
    def succeeded(self) -> bool:
        """Whether something passed, nothing failed, is unknown or vacuous, and all was judged."""
        return not self.left and not self.bad and any(v.status in ("pass", "expected failure") for v in self.verdicts)

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
        """The whole in a sentence."""
        subjects = {(v.kind, v.subject) for v in self.verdicts}
        statuses = ", ".join(f"{n} {status}" for status, n in sorted(self.counts.items(), key=lambda item: item[0] not in BAD))
        judged = f"{len(self.verdicts)} verdicts on {len(subjects)} {'mapping' if len(subjects) == 1 else 'mappings'}"
        what = f"{judged}: {statuses}" if self.verdicts else "nothing was judged"
        proof = f"; {self.exercised:,} comparisons, {self.controls:,} controls that differed" if self.exercised else ""
        left = f"; interrupted, {self.left} laws were not judged" if self.left else ""
        return f"{what}{proof}{left} ({self.seconds:.1f} s, seed {self.seed})"


def of_problem(problem: Problem, seed: int) -> Verdict:
    """A target that cannot be used, as a verdict."""
    return Verdict(
        subject=problem.subject, kind=problem.kind or "?", law=UNUSABLE, id="", priority=0, status="unknown",
        reason=problem.reason, seed=seed,
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Python, the machine, mapsto, NumPy and the frameworks of all wings, without importing them."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in ("mapsto", *(package for f in registry.frameworks() for package in f.packages[:1]), "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def json_lines(results: Results) -> str:
    """One record a law, a line each, whole in itself; a mapping that owes no law has a record whose law is null."""
    with_what = versions()
    records = [{**record(v), **_said(results.law(v)), "versions": with_what} for v in results.verdicts]
    records += [
        {"subject": s.label, "kind": s.kind, "law": None, "status": "owes no law", "seed": results.seed, "versions": with_what}
        for s in results.lawless
    ]
    return "".join(write_json(r) + "\n" for r in records)


def _said(law: Law | None) -> dict[str, Any]:
    if law is None:
        return {}
    return {"statement": law.statement, "tolerance": law.tolerance, "why": law.why, "satisfy": law.satisfy}
