"""Runs that ended badly: one that failed, one that was killed, ranks that were started again, observers that fell out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..figures import size
from .evidence import LAUNCHES, Evidence
from .finding import Finding, Gravity
from .frames import of_traceback

CONSEQUENCE = re.compile(
    r"connection (reset|closed|refused|aborted)|timed out|timeout|gloo|nccl|broken pipe|recv/send|tcpstore", re.IGNORECASE
)
"""What the other ranks say when one of them is gone: no cause, where another rank tells one."""


def failure(evidence: Evidence) -> dict[str, Any] | None:
    """What ended the latest session: type, message, traceback and, of several ranks, which was first; None if nothing did.

    The rank that the launcher named; else the first by time, but none that only missed another where some rank tells more.
    """
    errors = evidence.errors
    if errors:
        named = (evidence.verdict or {}).get("ranks") or ()
        causes = [e for e in errors if not CONSEQUENCE.search(f"{e.get('type', '')} {e.get('message', '')}")]
        return ([e for e in errors if e.get("rank") in named] or causes or errors)[0]
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
    if evidence.verdict is not None:
        said.append(f"the launcher's verdict: {evidence.verdict.get('sentence')}")
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


def killed(evidence: Evidence) -> list[Finding]:
    """A run that is over and told no end: something took the process away."""
    if evidence.record.status != "unfinished" or evidence.alive or not evidence.last or evidence.errors:
        return []
    left, verdict = evidence.stalls, evidence.verdict or {}
    step = max([evidence.record.steps, *(stall.step for stall in left)])
    said = [f"rank {s.rank} on {s.host} (process {s.pid}) gave its last sign of life at {_when(s.time)}" for s in left]
    memory = evidence.points("memory/resident")
    if memory:
        said.append(f"at its last log the process held {size(memory[-1][1])} of memory")
    lost = evidence.record.steps - max((c["step"] for c in evidence.record.checkpoints), default=0)
    said.append(f"{lost:,} steps were taken after the last checkpoint, and are to be taken again")
    return [
        Finding(
            "killed",
            Gravity.FATAL,
            f"{verdict.get('sentence', 'the run was ended from outside')} after step {step:,}: it told no end, and no process "
            "trains here",
            evidence=tuple(said),
            where=(evidence.at(evidence.record.steps, str(evidence.last.get("name"))), *(str(s.file) for s in left)),
            advice=(
                "out of memory? journalctl -k | grep -i 'killed process', or the scheduler's record of the job",
                f"go on: mapsto train --resume {evidence.record.folder}",
            ),
            steps=(step, step),
            values={"lost_steps": lost, "ranks": verdict.get("ranks")},
        )
    ]


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def restarted(evidence: Evidence) -> list[Finding]:
    """Failures that a launcher went on from by itself."""
    failed = [event for event in evidence.launches if event["event"] == "failed" and event is not evidence.verdict]
    if not failed:
        return []
    starts = [event for event in evidence.record.events if event.get("name") == "start"]
    from_ = [str(s["detail"]["resumed"]["step"]) for s in starts if (s.get("detail") or {}).get("resumed")]
    return [
        Finding(
            "restarted",
            Gravity.COSTLY,
            f"the ranks failed {len(failed)} time{'s' if len(failed) > 1 else ''} and were started again",
            evidence=(*(f"attempt {e.get('attempt')}: {e.get('sentence')}" for e in failed),
                      f"it went on from step {', '.join(from_) or '0'}; nothing that counts was lost, but time"),
            where=(str(evidence.record.folder / LAUNCHES), str(evidence.record.folder / "logs" / "attempts")),
            advice=("one rank or host each time: it is that machine", "the same step each time: the data or the code there"),
            cost=0.1,
            values={"times": len(failed), "kinds": [e.get("kind") for e in failed]},
        )
    ]  # fmt: skip


def observers_detached(evidence: Evidence) -> list[Finding]:
    """Observers that raised and were called no more."""
    detached = dict(((evidence.record.last_end or {}).get("detail") or {}).get("detached") or {})
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
