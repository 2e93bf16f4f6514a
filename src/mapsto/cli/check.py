"""Check that mappings keep the laws of their kind.

A target is a registered name (`layer/gate`, `adamw`), a kind, an import path (`package.module:Thing`, `file.py:Thing`: a
class, a factory or an instance), an installed distribution (all that it registers) or a spec (every part with its
arguments, and the composed program). Each law is judged in a process of its own, within a time limit; each failure comes
with a witness. Exit code 0 only where something passed and nothing failed, is unknown or is vacuous."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..check import catalogue, junit, page, runner, terminal
from ..check.process import Server
from ..check.results import Results, json_lines, of_problem
from ..core.errors import SpecError
from ..core.laws import Law, Verdict, all_laws, find_law
from ..core.wings import DEFAULT
from ..engine import durable
from . import trusting
from .console import note, screen, table, write

EPILOG = """\
examples:
  mapsto check adamw                                a registered name
  mapsto check layer.py:Gate                        a class in a file
  mapsto check my_package.losses:focal --kind loss  where its kind cannot be told
  mapsto check layer --gate                         all layers, only the laws that gate
  mapsto check recipes/digits.py                    every part of a spec, and the whole
  mapsto check torch.nn:GRU --laws layout,L6        two laws
  mapsto check adamw --html check.html --junit check.xml
  mapsto check --list                               the laws; with a target: those that it owes
  mapsto check --explain layer.layout               one law: what, why, how to satisfy it"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="what to check")
    parser.add_argument("--laws", metavar="NAME,..", help="only these, by name (layer.layout, layout) or id (L2)")
    parser.add_argument("--gate", action="store_true", help="only the laws that gate (P0)")
    parser.add_argument("--thorough", action="store_true", help="the long ones too (P2)")
    parser.add_argument("--kind", help="the kind of the targets, where it cannot be told")
    parser.add_argument("--wing", help="the wing (torch, ...) whose mappings and laws are meant, where it cannot be told")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: 0)")
    parser.add_argument("--jobs", type=_at_least_one, metavar="N", help="worker processes (default: the cores)")
    parser.add_argument("--limit", type=_above_zero, default=1.0, metavar="FACTOR", help="a factor on the time limits")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a JSON record a law, one a line")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a self-contained page")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--list", action="store_true", help="list the laws, or those that the targets owe, and judge none")
    parser.add_argument("--markdown", action="store_true", help="with --list: the page docs/laws.md")
    parser.add_argument("--explain", metavar="LAW", help="tell one law: what, why, how to satisfy it")
    trusting.arguments(parser)


def run(options: argparse.Namespace) -> int:
    if options.explain:
        write(catalogue.explanation(find_law(options.explain, options.wing or DEFAULT)))
        return 0
    if options.list and not options.targets:
        _list(list(all_laws().values()), options)
        return 0
    if options.markdown and not options.list:
        options.parser.error("--markdown is said with --list")
    if not options.targets:
        options.parser.error("say what to check, or --list, or --explain LAW")
    if options.gate and options.thorough:
        options.parser.error("--gate and --thorough exclude each other")
    outputs = _outputs(options)
    for target in options.targets:
        trusting.admit(options, target)
    interrupted = False
    with runner.server(options.jobs) as served:
        if options.list:
            return _list_owed(_resolved(options, served), options)
        results, interrupted = _judge(options, served)
    for path, text in outputs:
        durable.replace(path, text(results).encode("utf-8", "backslashreplace"))
    _print(results)
    for path, _ in outputs:
        note(f"written: {path}")
    if interrupted:
        raise KeyboardInterrupt
    return 0 if results.succeeded else 1


def _resolved(options: argparse.Namespace, served: Server) -> runner.Resolved:
    return runner.resolve(options.targets, served, kind=options.kind, wing=options.wing, limit=options.limit)


def _judge(options: argparse.Namespace, served: Server) -> tuple[Results, bool]:
    """What was found, and whether it was interrupted before its end."""
    began, made, interrupted = time.perf_counter(), list[Verdict](), False
    only = _named(options)
    found = _resolved(options, served)
    runner.require_known(only, found.laws)
    priority = _priority(options)
    owed = {s.label: runner.owed(s, found.laws, priority=priority, only=only) for s in found.subjects}
    total = sum(map(len, owed.values()))
    try:
        with _shown(total) as show:

            def progress(verdict: Verdict, done: int, of: int) -> None:
                made.append(verdict)
                show(verdict, done, of)

            verdicts = runner.check(
                found.subjects, laws=found.laws, only=only, thorough=options.thorough, gate=options.gate, seed=options.seed,
                jobs=options.jobs, limit=options.limit, progress=progress, served=served,
            )  # fmt: skip
    except KeyboardInterrupt:
        interrupted, verdicts = True, made
    results = Results(
        verdicts=[of_problem(p, options.seed) for p in found.problems] + verdicts,
        laws={(w.name, w.wing): w for w in found.laws},
        lawless=[s for s in found.subjects if not owed[s.label]],
        seed=options.seed,
        seconds=time.perf_counter() - began,
        left=total - len(made),
    )
    return results, interrupted


@contextmanager
def _shown(total: int) -> Iterator[Callable[[Verdict, int, int], None]]:
    """A progress line on stderr, where a terminal looks on."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=screen(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        bad = 0

        def show(verdict: Verdict, done: int, _: int) -> None:
            nonlocal bad
            bad += verdict.status in ("fail", "unknown", "vacuous")
            said = f"{bad} bad; " if bad else ""
            bar.update(task, completed=done, description=f"{said}{verdict.law} of {verdict.subject}: {verdict.status}")

        yield show


def _print(results: Results) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what a component says may be in any script
    coded = "utf" in (sys.stdout.encoding or "").lower()
    console = screen(soft_wrap=True, width=None if sys.stdout.isatty() else 100)
    for line in terminal.lines(results, width=min(console.width, 160), ascii_only=not coded):
        console.print(line)


# -- options ---------------------------------------------------------------------------------------------------------
def _named(options: argparse.Namespace) -> list[str]:
    return [name.strip() for name in (options.laws or "").split(",") if name.strip()]


def _priority(options: argparse.Namespace) -> int:
    return 0 if options.gate else 2 if options.thorough else 1


def _outputs(options: argparse.Namespace) -> list[tuple[Path, Callable[[Results], str]]]:
    """Files to write, each known to be writable before anything is judged. Raises SpecError, MissingExtra."""
    writers = (("json", json_lines), ("html", page.html), ("junit", junit.xml))
    found: list[tuple[Path, Callable[[Results], str]]] = [
        (path, text) for name, text in writers if (path := getattr(options, name)) is not None
    ]
    for path, _ in found:
        if not path.absolute().parent.is_dir() or path.is_dir():
            raise SpecError(f"{path}: a file in a folder that exists is wanted")
    if options.html is not None:
        page.environment()
    return found


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1 is wanted")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("a number above 0 is wanted")
    return number


# -- listing ---------------------------------------------------------------------------------------------------------
def _list(laws: list[Law], options: argparse.Namespace) -> None:
    chosen = [w for w in laws if options.kind in (None, *w.kinds) and options.wing in (None, w.wing or options.wing)]
    if options.markdown:
        write(catalogue.page(chosen).rstrip("\n"))
    else:
        table(("law", "id", "priority", "tolerance", "says"), catalogue.listing(chosen))


def _list_owed(found: runner.Resolved, options: argparse.Namespace) -> int:
    """The laws that each subject owes."""
    only = _named(options)
    runner.require_known(only, found.laws)
    for problem in found.problems:
        note(f"{problem.subject}: {problem.reason}")
    for subject in found.subjects:
        laws = runner.owed(subject, found.laws, priority=_priority(options), only=only)
        write(f"{subject.label} ({subject.kind}): {len(laws)} laws")
        table(("law", "id", "priority", "tolerance", "says"), catalogue.listing(laws), indent="  ") if laws else None
    return 1 if found.problems else 0
