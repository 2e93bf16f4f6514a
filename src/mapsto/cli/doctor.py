"""Say what was wrong with a run, from its folder alone: each finding with its evidence, where to look, and what to do."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .console import heading, write, write_json

if TYPE_CHECKING:
    from ..engine.diagnosis import Diagnosis, Finding

EPILOG = """\
examples:
  mapsto doctor runs/first          what was wrong with it, gravest first
  mapsto doctor runs/first --json   the same for a program
  mapsto doctor runs/first --all    and what was looked at, and what could not be

exit codes: 0 nothing was found, or notes alone; 3 something was; 1 the folder holds no run. It reads the folder of a run that
failed, was killed, is over or is still going; it needs neither the framework, the recipe nor the data, and changes nothing."""

FOUND = 3
"""The exit code where something was found."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a run, also of one that is still going")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--all", action="store_true", help="name what was looked at and what could not be")


def run(options: argparse.Namespace) -> int:
    from ..engine.diagnosis import diagnose

    found = diagnose(options.run)
    if options.json:
        write_json(found.to_data())
    else:
        _tell(found, everything=options.all)
    return 0 if found.healthy else FOUND


def _tell(diagnosis: Diagnosis, *, everything: bool) -> None:
    for finding in diagnosis.findings:
        _tell_one(finding)
    count = len(diagnosis.findings)
    notes = sum(finding.gravity.name == "NOTE" for finding in diagnosis.findings)
    parts = [f"{n} {what}{'s' if n > 1 else ''}" for n, what in ((count - notes, "finding"), (notes, "note")) if n]
    said = ("healthy: " if diagnosis.healthy else "") + (" and ".join(parts) or "nothing was found")
    write(f"{diagnosis.folder} ({diagnosis.status}): {said}")
    if everything or not count:
        write("looked at: " + ", ".join(diagnosis.looked.values()))
        for name, why in diagnosis.unseen.items():
            write(f"not looked at: {why}" + (f"  [{name}]" if everything else ""))


def _tell_one(finding: Finding) -> None:
    heading(f"{finding.gravity.name.lower()}: {finding.title}  [{finding.name}]")
    for line in finding.evidence:
        write(f"  {line}")
    for line in finding.explains:
        write(f"  it explains: {line}")
    for place in finding.where:
        write(f"  at {place}")
    for line in finding.advice:
        write(f"  try: {line}")
    write()
