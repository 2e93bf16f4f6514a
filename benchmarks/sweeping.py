"""What the sweeps of losses, optimizers, schedules and libraries share: options, running, a matrix and its failing cells."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence

import torch

from mapsto.check import check
from mapsto.check.runner import record
from mapsto.core.laws import BAD, Subject, Verdict

SYMBOLS = {"pass": ".", "fail": "F", "unknown": "?", "vacuous": "V", "not applicable": "-", "expected failure": "x"}


def options(doc: str | None) -> argparse.ArgumentParser:
    """The options that every sweep has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these (default: all)")
    parser.add_argument("--out", help="write one JSON record a law to this file")
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--only", nargs="*", default=[], help="laws by name or id")
    parser.add_argument("--gate", action="store_true", help="P0 alone")
    parser.add_argument("--thorough", action="store_true", help="P2 too")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def sweep(subjects: Sequence[Subject], chosen: argparse.Namespace) -> int:
    """Judge them and print what came of it. Exit code 0: a sweep reports, it does not judge."""
    began = time.perf_counter()
    out = open(chosen.out, "w", encoding="utf-8") if chosen.out else None  # noqa: SIM115  # closed below

    done = 0

    def progress(verdict: Verdict) -> None:
        nonlocal done
        done += 1
        if out is not None:
            out.write(json.dumps(record(verdict), default=str) + "\n")
            out.flush()
        if verdict.status in BAD or done % 100 == 0:
            print(f"{done} {short(verdict)} {verdict.law}: {verdict.status}", file=sys.stderr, flush=True)

    found = check(
        subjects,
        only=chosen.only,
        thorough=chosen.thorough,
        gate=chosen.gate,
        seed=chosen.seed,
        jobs=chosen.jobs,
        progress=progress,
    )
    if out is not None:
        out.close()
    for kind in dict.fromkeys(v.kind for v in found):
        show(kind, [v for v in found if v.kind == kind])
    took = time.perf_counter() - began
    print(f"torch {torch.__version__}, {len(subjects)} components, {len(found)} verdicts in {took:.0f} s")
    return 0


def short(verdict: Verdict) -> str:
    """The component's own name."""
    return verdict.subject.rpartition(":")[2]


def show(kind: str, found: list[Verdict]) -> None:
    """The matrix, the cells that are no pass, and the counts a law."""
    laws = sorted({(v.priority, v.id, v.law) for v in found})
    print(kind.ljust(32) + " ".join(i.ljust(5) for _, i, _ in laws))
    cells = {(short(v), v.law): v for v in found}
    for name in dict.fromkeys(short(v) for v in found):
        marks = [SYMBOLS[cells[name, law].status] if (name, law) in cells else " " for _, _, law in laws]
        print(name.ljust(32) + " ".join(m.ljust(5) for m in marks))
    print("\n" + ", ".join(f"{s} {name}" for name, s in SYMBOLS.items()))
    for _, i, law in laws:
        counts = Counter(v.status for v in found if v.law == law)
        seconds = sum(v.seconds for v in found if v.law == law)
        print(f"{i.ljust(6)} {law.ljust(32)} {', '.join(f'{n} {s}' for s, n in counts.items())}; {seconds:.0f} s")
    for verdict in found:
        if verdict.status in BAD or verdict.status == "expected failure":
            told = verdict.witness
            print(f"\n{short(verdict)} {verdict.law} ({verdict.id}): {verdict.status}\n  {verdict.reason[:500]}")
            if told is not None:
                print(f"  case {dict(told.case)}; measured {told.measured}, allowed {told.allowed}; cause: {told.cause}")
    print()
