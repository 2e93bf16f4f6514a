"""Diagnosis: what was wrong with a run, read from its folder alone, each finding with its evidence."""

from __future__ import annotations

import time
from pathlib import Path

from ..folder import RunFolder
from ..record import RunRecord, read_run
from .detectors import DETECTORS
from .evidence import Evidence
from .finding import Diagnosis, Finding, Gravity, ranked


def diagnose(run: str | Path | RunRecord) -> Diagnosis:
    """run folder (or what was read of it) -> what was wrong with it; of a run that is going on, so far.

    Needs neither the framework nor the recipe. Raises SpecError where the folder holds no run.
    """
    record = run if isinstance(run, RunRecord) else read_run(RunFolder(run))
    evidence = Evidence(record, time.time())
    findings: list[Finding] = []
    looked: dict[str, str] = {}
    unseen: dict[str, str] = {}
    for detector in DETECTORS:
        if missing := detector.missing(evidence):
            unseen[detector.name] = f"{detector.looks_at}: {missing}"
        else:
            looked[detector.name] = detector.looks_at
            findings += detector.find(evidence)
    return Diagnosis(record.folder, record.status, ranked(findings), looked, unseen)


__all__ = ["DETECTORS", "Diagnosis", "Finding", "Gravity", "diagnose"]
