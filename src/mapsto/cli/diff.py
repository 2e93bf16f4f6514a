"""Say where two runs first differ: options, figures, the first checkpoint, and with --replay the step and what in it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import trusting
from .console import heading, note, table, write, write_json

if TYPE_CHECKING:
    from ..engine.divergence import Divergence, Found

EPILOG = """\
examples:
  mapsto diff runs/first runs/second            what their folders tell
  mapsto diff runs/first runs/second --replay   and the first step, module and tensor that differ
  mapsto diff runs/first runs/second --json     the same for a program

With --replay both go on in folders of their own, from the last checkpoint in which they are equal; the runs stay as they are.
exit codes: 0 they are the same; 3 they differ; 1 an error, which is explained."""

DIFFER = 3
"""The exit code where they differ."""
SHOWN = 12
"""Differences that are listed, of each sort."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs=2, metavar="RUN", help="the folder of a run")
    parser.add_argument("--replay", action="store_true", help="go on with both, and find the step and what in it differs first")
    parser.add_argument("--json", action="store_true", help="print JSON")
    trusting.arguments(parser)


def run(options: argparse.Namespace) -> int:
    from ..engine.divergence import check_runs, diverge

    check_runs(tuple(options.runs))
    for folder in options.runs:
        trusting.admit(options, folder)
    if options.replay:
        note("both runs are gone on with; this takes as long as the steps since they were equal")
    found = diverge(*options.runs, replay=options.replay)
    if options.json:
        write_json(found.to_data())
    else:
        _tell(found)
    return 0 if found.same else DIFFER


def _tell(found: Divergence) -> None:
    one, other = map(str, found.runs)
    for what, pairs in (("specs", found.spec), ("environments", found.environment)):
        if pairs:
            heading(f"their {what} differ")
            table(("at", one, other), [(path, *values) for path, values in pairs[:SHOWN]])
    if found.figure is not None:
        step, name, a, b = found.figure
        write(f"first figure that differs: {name} at step {step}: {a:.9g} and {b:.9g}")
    if found.equal_at is not None:
        write(f"last checkpoint in which they are equal, to the bit: step {found.equal_at}")
    if found.differs_at is not None:
        heading(f"first checkpoint in which they differ: step {found.differs_at}")
        _list(found.state)
    if found.step is not None:
        heading(f"first step that differs: {found.step}")
        _list(found.found)
    for line in found.notes:
        note(line)
    write(
        f"likely: {found.cause}"
        if found.cause
        else "they are the same"
        if found.same
        else "why they differ is not told here: --replay"
    )


def _list(found: list[Found]) -> None:
    columns = ("what", "which", "largest value", "difference", "in units of the last place")
    rows = [
        (f.what, f.which, f"{f.size:.3g}", f"{f.difference:.3g}", "" if f.units is None else f"{f.units:.3g}") for f in found
    ]
    table(columns, rows[:SHOWN])
    if len(rows) > SHOWN:
        write(f"and {len(rows) - SHOWN} more")


def _short(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3g}"
