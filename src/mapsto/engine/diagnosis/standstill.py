"""Runs that stand still: no step is finished, and nobody says why."""

from __future__ import annotations

from ...core.native import is_framework_file
from ..figures import duration
from ..stall import Stall
from . import thresholds
from .evidence import Evidence
from .finding import Finding, Gravity
from .frames import frames, of_stacks


def stalled(evidence: Evidence) -> list[Finding]:
    """A run that has not ended and finishes no step, or did so before it was ended."""
    if evidence.record.status not in ("unfinished", "failed", "aborted"):
        return []
    stood = [stall for stall in evidence.stalls if stall.stacks]
    if not stood:
        return _silent(evidence)
    said = [
        f"rank {s.rank} on {s.host} (process {s.pid}) gave no sign of life for {duration(s.limit)}"
        f"{_phase(s)}: {next(iter(of_stacks(s.stacks)), 'no frame was told')}"
        for s in stood
    ]
    first = _culprit(stood)
    which = f"rank {first.rank}" if len(stood) > 1 or first.rank else "the run"
    step = max(first.step, evidence.record.steps)
    told = "stands still" if evidence.alive else "stood still and was ended"
    return [
        Finding(
            "stalled",
            Gravity.FATAL,
            f"{which} {told} after step {step:,}{_phase(first)}",
            evidence=tuple(said),
            where=tuple(
                str(place) for s in [first, *(s for s in stood if s is not first)] for place in (*of_stacks(s.stacks), s.file)
            ),
            advice=(
                "the line above is where it waits: for another rank, a lock, a device, a file or a network",
                "ranks that wait in a collective wait for one that does not: look at the one that stands elsewhere",
            ),
            steps=(step, step),
            values={"rank": first.rank, "ranks": [s.rank for s in stood], "seconds": first.limit},
        )
    ]


PHASES = {"_evaluate": ", evaluating", "_save": ", writing a checkpoint", "emit": ", in an observer", "_panels": ", at its end"}
"""What the loop does, by the function of it that stands in the stack."""


def _phase(stall: Stall) -> str:
    functions = [frame.function for frame in frames(stall.stacks)]
    return next((text for name, text in PHASES.items() if name in functions), "")


def _culprit(stood: list[Stall]) -> Stall:
    """The rank that does not stand in the framework, where others do and so wait for it; else the one that came least far."""
    elsewhere = [s for s in stood if (place := of_stacks(s.stacks)) and not is_framework_file(place[0].file)]
    return min(elsewhere if len(elsewhere) < len(stood) and elsewhere else stood, key=lambda s: (s.step, s.rank))


def _silent(evidence: Evidence) -> list[Finding]:
    """The same of a run that left no stacks, such as one of another wing: by its last event alone."""
    if evidence.record.status != "unfinished" or not evidence.alive or not evidence.last:
        return []
    silent = evidence.now - evidence.last.get("time", evidence.now)
    usual = max((log.metrics.get("time/step", 0.0) * log.steps for log in evidence.logs), default=0.0)
    if silent < max(thresholds.STALL_SECONDS, 10 * usual):
        return []
    step = evidence.last["step"]
    return [
        Finding(
            "stalled",
            Gravity.FATAL,
            f"the run is alive and has written nothing for {duration(silent)}, since step {step:,}",
            evidence=(f"logs were at most {duration(usual)} apart before",),
            where=(evidence.at(step, str(evidence.last.get("name"))),),
            advice=("see where it stands: py-spy dump --pid <the process in .lock>",),
            steps=(step, step),
            values={"seconds": silent},
        )
    ]
