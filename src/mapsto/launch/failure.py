"""Which rank failed first, and how: told from what each left behind, as a pure function."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..core.native import is_framework_file
from .flight_recorder import collectives, divergence, listed

FOLLOWS = re.compile(
    r"Connection (reset|closed|refused|aborted)|Broken pipe|[Tt]imed out (waiting|after)|[Tt]imeout|\bgloo\b|Gloo|NCCL"
    r"|ProcessGroup|TCPStore|DistNetworkError|DistStoreError|DistBackendError|monitoredBarrier|Rank \d+ .*(failed|not ready)"
    r"|recvValue|sendBytes"
)
"""Words of an error that a rank has because another one went away or did not come."""
MISMATCH = re.compile(r"Detected mismatch between collectives|Received data size doesn't match|op\.preamble\.length")
"""Words of an error that ranks have because they were in different collectives."""
OWN = {
    "MapstoError", "TypeError", "NameError", "AttributeError", "LookupError", "ValueError", "ImportError", "SyntaxError",
    "AssertionError", "NotImplementedError", "ArithmeticError",
}  # fmt: skip
"""Errors of the program itself: what starts again would only meet them again."""
Kind = Literal["failed", "lost", "diverged", "stalled", "left", "disconnected"]


@dataclass(frozen=True)
class End:
    """How one rank ended. code: None where it had not ended when the others had; time: seconds since the epoch."""

    rank: int
    host: str
    code: int | None
    time: float
    log: str
    record: Mapping[str, Any] | None = None
    flight: Sequence[Mapping[str, Any]] = ()
    state: str = ""
    stack: str = ""

    def data(self) -> dict[str, Any]:
        """How a rank ended as JSON, which nodes send each other."""
        return asdict(self)


@dataclass(frozen=True)
class Failure:
    """The first cause: of which ranks, in one sentence; details: a traceback or a stack; key: what makes two the same."""

    kind: Kind
    ranks: tuple[int, ...]
    sentence: str
    details: str = ""
    log: str = ""
    hint: str = ""
    again: bool = True
    key: tuple[Any, ...] = field(default=())

    def text(self) -> str:
        """The failure as lines for a person: sentence, details, log and hint."""
        parts = [self.sentence, self.details.rstrip(), f"log: {self.log}" if self.log else "", self.hint]
        return "\n".join(part for part in parts if part)


def follows(end: End) -> bool:
    """Whether a rank's error is but the echo of another one's."""
    if end.record is None:  # gloo ends a process that is sent more than it waits for
        return end.code == -signal.SIGABRT and MISMATCH.search(_tail(end.log, 1000)) is not None
    systems = {"RuntimeError", "OSError"} & set(end.record["bases"])
    return bool(systems) and any(FOLLOWS.search(each) or MISMATCH.search(each) for each in end.record["chain"])


def judge(ends: Sequence[End]) -> Failure:
    """The first cause among the ends of an attempt that failed.

    A rank that raised an error of its own, or was killed, is the cause: the earliest of these. Where all that is there are
    broken or late communications, the cause is a rank that was in another collective, else one that did not come, else one
    that had ended its run already.
    """
    causes = sorted((e for e in ends if _is_cause(e)), key=lambda e: e.record["time"] if e.record else e.time)
    if causes:
        return _failed(causes, len(ends)) if causes[0].record is not None else _lost(causes[0])
    waited = [e for e in ends if follows(e)]
    return _diverged(ends, waited) or _stalled(ends, waited) or _left(ends, waited) or _disconnected(ends, waited)


def _is_cause(end: End) -> bool:
    return not follows(end) and (end.record is not None or end.code not in (None, 0))


def _where(end: End) -> str:
    return f"rank {end.rank}" + ("" if end.host in ("", socket.gethostname()) else f" on {end.host}")


def _failed(causes: Sequence[End], world: int) -> Failure:
    end, record = causes[0], causes[0].record or {}
    alike = [e for e in causes if e.record and (e.record["type"], e.record["message"]) == (record["type"], record["message"])]
    who = "every rank failed" if len(alike) == world > 1 else f"{_where(end)} failed first"
    step = f" at step {record['step']}" if record.get("step") is not None and "step" not in record["message"][:5] else ""
    explained = bool(record["explained"])
    return Failure(
        kind="failed",
        ranks=(end.rank,),
        sentence=f"{who}{step}: {record['message'] if explained else record['chain'][0].splitlines()[0]}",
        details="" if explained else record["traceback"],
        log=end.log,
        again=not OWN & set(record["bases"]),
        key=(record["type"], record["message"], record.get("step")),
    )


def _lost(end: End) -> Failure:
    assert end.code is not None
    if end.code > 0:
        sentence, hint = f"{_where(end)} ended with exit code {end.code}, and its log says why", ""
        return Failure(
            "failed", (end.rank,), sentence, _tail(end.log), end.log, again=end.code not in (2,), key=("exit", end.code)
        )
    name = signal.Signals(-end.code).name
    hint = {
        "SIGKILL": "The kernel kills where memory runs out (dmesg tells), and schedulers where a limit is passed.",
        "SIGSEGV": "A crash in native code: the log has its stack.",
        "SIGBUS": "Often /dev/shm is full.",
    }.get(name, "")
    return Failure("lost", (end.rank,), f"{_where(end)} was ended by {name}", log=end.log, hint=hint)


def _diverged(ends: Sequence[End], waited: Sequence[End]) -> Failure | None:
    odd, what = divergence({e.rank: collectives(e.flight) for e in ends if e.flight}) or ([], "")
    told = [line.strip() for e in waited for line in _said(e) if MISMATCH.search(line)]
    if not what and not told:
        return None
    if not what:
        named = re.search(r"Rank (\d+) is running collective.*", told[0], re.DOTALL)  # torch's own check says it all
        what = named[0] if named else f"{'; '.join(map(_place, waited))} ({told[0]})"
    who = f"{listed(odd)} took another way than the other ranks" if odd else "the ranks were in different collectives"
    hint = "Ranks must run the same code on the same spec and data, and no branch of it may depend on the rank."
    if "is running collective" not in what:
        hint += " --check-collectives compares every collective as it is entered, and names the line."
    of = next((e for e in waited if e.rank in odd), waited[0] if waited else None)
    details = of.record["traceback"] if of is not None and of.record is not None else ""
    return Failure("diverged", tuple(odd), f"{who}: {what}", details, of.log if of else "", hint, again=False)


def _place(end: End) -> str:
    """Where a rank was: the innermost line of its stack that is none of the framework's, or else its last collective."""
    stack = end.record["traceback"] if end.record is not None else _tail(end.log, 1000)
    found = [f"{file}:{line}" for file, line in re.findall(r'File "([^"]+)", line (\d+)', stack) if not is_framework_file(file)]
    inner = found[:1] if end.record is None else found[-1:]  # a stack from faulthandler begins with the innermost
    last = collectives(end.flight)[-1:]
    if inner and (end.record is None or not last):
        return f"{_where(end)} was at {inner[0]}"
    return f"{_where(end)} was in {last[0].what}" if last else f"{_where(end)} does not say where it was"


def _said(end: End) -> list[str]:
    """The lines in which a rank says what went wrong."""
    return list(end.record["chain"]) if end.record is not None else _tail(end.log, 1000).splitlines()


def _stalled(ends: Sequence[End], waited: Sequence[End]) -> Failure | None:
    late = [e for e in ends if e.code is None and e.record is None]
    if not late:
        return None
    who = "; ".join(f"{_where(e)} did not come: it was {e.state or 'alive'}" for e in late)
    last = [found[-1] for e in waited if (found := collectives(e.flight))]
    where = f" in collective {last[0].number}, {last[0].what}" if last else ""
    others = f"; {listed([e.rank for e in waited])} waited{where}" if waited else ""
    stacks = "\n".join(f"{_where(e)} was at\n{_inner(e.stack)}" for e in late if e.stack)
    return Failure("stalled", tuple(e.rank for e in late), who + others, stacks, late[0].log)


def _inner(stack: str) -> str:
    """A stack without what starts a rank."""
    return "\n".join(line for line in stack.splitlines() if not re.search(r"mapsto/(launch|cli)/|<string>", line))


def _left(ends: Sequence[End], waited: Sequence[End]) -> Failure | None:
    gone = [e for e in ends if e.code == 0]
    if not gone or not waited:
        return None
    others = f"{listed([e.rank for e in waited])} still waited for {'it' if len(gone) == 1 else 'them'}"
    who = f"{listed([e.rank for e in gone])} had come to the end already, and {others}"
    return Failure(
        "left", tuple(e.rank for e in gone), who, (waited[0].record or {}).get("traceback", ""), gone[0].log, again=False
    )


def _disconnected(ends: Sequence[End], waited: Sequence[End]) -> Failure:
    first = min(waited, key=lambda e: e.record["time"] if e.record else e.time, default=None)
    if first is None or first.record is None:  # pragma: no cover  # an attempt that failed has someone who did
        return Failure(
            "disconnected", tuple(e.rank for e in ends), "the ranks ended, and none said why", log=ends[0].log if ends else ""
        )
    told = first.record["chain"][-1]
    sentence = f"the ranks lost their connection; {_where(first)} was the first to notice: {told}"
    return Failure("disconnected", (first.rank,), sentence, first.record["traceback"], first.log)


def _tail(log: str, lines: int = 30) -> str:
    """The last lines of a rank's log, of its last attempt."""
    try:
        with open(log, errors="replace") as file:
            return "".join(file.read().rpartition("\n--- attempt")[2].splitlines(keepends=True)[1:][-lines:])
    except OSError:
        return ""
