"""Runs that ended badly: one that failed, one that was killed, one that stands still, one whose observers fell out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..figures import duration, size
from . import thresholds
from .evidence import Evidence
from .finding import Finding, Gravity
from .frames import of_stacks, of_traceback

CONSEQUENCE = re.compile(
    r"connection (reset|closed|refused)|timed out|gloo|nccl|broken pipe|recv/send|socket|heartbeat|store", re.IGNORECASE
)
"""What the other ranks say when one of them is gone: no cause, where another rank tells one."""


def failure(evidence: Evidence) -> dict[str, Any] | None:
    """What ended the latest session: type, message, traceback and, of several ranks, which was first; None if nothing did.

    The first by time, except that a rank which only missed another is no cause where some rank tells one.
    """
    errors = evidence.errors
    if errors:
        causes = [e for e in errors if not CONSEQUENCE.search(f"{e.get('type', '')} {e.get('message', '')}")]
        return (causes or errors)[0]
    if evidence.record.status not in ("failed", "aborted"):
        return None
    detail = dict((evidence.record.last_end or {}).get("detail") or {})
    kind, _, message = str(detail.get("why", "")).partition(": ")
    return {
        "type": kind,
        "message": message,
        "traceback": str(detail.get("traceback", "")),
        "step": (evidence.record.last_end or {}).get("step", 0),
        "host": evidence.record.environment.get("host"),
        "file": evidence.at(evidence.record.steps, "end"),
    }


def is_nonfinite(error: Mapping[str, Any]) -> bool:
    return str(error.get("type", "")).endswith("NonfiniteError")


def crashed(evidence: Evidence) -> list[Finding]:
    """A run that an error ended."""
    error = failure(evidence)
    if error is None or is_nonfinite(error):
        return []
    kind, message = str(error.get("type", "")).rpartition(".")[2], str(error.get("message", "")).strip()
    rank = f"rank {error['rank']} (on {error.get('host')})" if "rank" in error else "the run"
    first = message.splitlines()[0] if message else kind
    places = [str(frame) for frame in of_traceback(str(error.get("traceback", "")))]
    step = int(error.get("step") or 0)
    stopped = kind == "KeyboardInterrupt"
    told = f"{rank} was ended by the user at step {step:,}" if stopped else f"{rank} failed at step {step:,}: {kind}: {first}"
    others = len(evidence.errors) - 1
    said = [f"{kind}: {message}"] if "\n" in message else []
    if others > 0:
        said.append(f"{others} more rank{'s' if others > 1 else ''} ended with it, as a consequence")
    saved = evidence.record.checkpoints
    said.append(f"the last checkpoint is {saved[-1]['name']}" if saved else "it ended before its first checkpoint")
    advice = [f"go on from it, once the cause is gone: mapsto train --resume {evidence.record.folder}"] if saved else []
    return [
        Finding(
            "crashed",
            Gravity.FATAL,
            told,
            evidence=tuple(said),
            where=(*places, str(error.get("file", ""))),
            advice=("look at the line above" if places else "read the traceback in the file above", *advice),
            steps=(step, step),
            values={"type": kind, "message": message, "rank": error.get("rank"), "host": error.get("host")},
        )
    ]


def stalled(evidence: Evidence) -> list[Finding]:
    """A run that has not ended and finishes no step, or did so before it was ended."""
    if evidence.record.status not in ("unfinished", "failed", "aborted"):
        return []
    stood = [stall for stall in evidence.stalls if stall.stacks]
    if not stood:
        return _silent(evidence)
    first = min(stood, key=lambda stall: (stall.step, stall.time))
    said = [
        f"rank {s.rank} on {s.host} (process {s.pid}) gave no sign of life for {duration(s.limit)} after step {s.step:,}, "
        f"while {s.doing}: {next(iter(of_stacks(s.stacks)), 'no frame was told')}"
        for s in stood
    ]
    which = f"rank {first.rank}" if len(stood) > 1 or first.rank else "the run"
    behind = len({(s.step, s.doing) for s in stood}) > 1
    told = "stands still" if evidence.alive else "stood still, and was ended"
    return [
        Finding(
            "stalled",
            Gravity.FATAL,
            f"{which} {told} {first.doing} at step {first.step:,}",
            evidence=(*said, *([f"rank {first.rank} is behind the others, which wait for it"] if behind else [])),
            where=tuple(f"{place}" for s in stood for place in (*map(str, of_stacks(s.stacks)), str(s.file))),
            advice=("the line above is where it waits: for another rank, a lock, a device or a file",
                    "ranks that stand in a collective wait for one that does not: look at the one that stands elsewhere"),
            steps=(first.step, first.step),
            values={"ranks": [s.rank for s in stood], "seconds": first.limit},
        )
    ]  # fmt: skip


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


def killed(evidence: Evidence) -> list[Finding]:
    """A run that is over and told no end: something took the process away."""
    if evidence.record.status != "unfinished" or evidence.alive or not evidence.last or evidence.errors:
        return []
    left = evidence.stalls
    step = max([evidence.record.steps, *(stall.step for stall in left)])
    said = [f"rank {s.rank} on {s.host} (process {s.pid}) was {s.doing} at step {s.step:,}" for s in left]
    memory = evidence.points("memory/resident")
    if memory:
        said.append(f"at its last log the process held {size(memory[-1][1])} of memory")
    lost = evidence.record.steps - max((c["step"] for c in evidence.record.checkpoints), default=0)
    said.append(f"{lost:,} steps were taken after the last checkpoint, and are to be taken again")
    return [
        Finding(
            "killed",
            Gravity.FATAL,
            f"the run was ended from outside after step {step:,}: it told no end, and no process trains here",
            evidence=tuple(said),
            where=(evidence.at(evidence.record.steps, str(evidence.last.get("name"))), *(str(s.file) for s in left)),
            advice=(
                "out of memory? journalctl -k | grep -i 'killed process', or the scheduler's record of the job",
                f"go on: mapsto train --resume {evidence.record.folder}",
            ),
            steps=(step, step),
            values={"lost_steps": lost},
        )
    ]


def observers_detached(evidence: Evidence) -> list[Finding]:
    """Observers that raised and were called no more."""
    detached = dict((evidence.record.last_end or {}).get("detail", {}).get("detached") or {})
    if not detached:
        return []
    return [
        Finding(
            "observers_detached",
            Gravity.COSTLY,
            f"{', '.join(detached)} raised and watched no more",
            evidence=tuple(f"{name}: {why}" for name, why in detached.items()),
            where=(evidence.at(evidence.record.steps, "end"), evidence.setting("observers")),
            advice=("the run is not harmed; what the observer keeps (boards, early stopping) is incomplete",),
            cost=0.0,
            values={"observers": sorted(detached)},
        )
    ]
