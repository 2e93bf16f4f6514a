"""Check that mappings keep the laws of their kind.

A target is a registered name (`layer/gate`, `adamw`), a kind, an import path (`package.module:Thing`, `file.py:Thing`: a
class, a factory or an instance), an installed distribution (all that it registers) or a spec (every part with its
arguments, and the composed program). Each law is judged in a process of its own, within a time limit; each failure comes
with a witness. Exit code 0 only where nothing failed, is unknown or is vacuous that was not known to be, and something
passed (or nothing was --changed); 130 and 143 after Ctrl-C and SIGTERM, with what was judged until then."""

from __future__ import annotations

import argparse
import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..check import catalogue, junit, page, runner
from ..check.baseline import Baseline
from ..check.changed import Changes, changes
from ..check.process import Server
from ..check.results import Results, of_problem
from ..check.targets import is_package
from ..core import durable
from ..core.errors import SpecError, require
from ..core.laws import Law, Subject, Verdict, all_laws, find_law
from ..core.wings import DEFAULT
from . import trusting
from .checking import STDOUT, Lines, Paper, Stop
from .console import note, table, write

EPILOG = """\
examples:
  mapsto check adamw                                a registered name
  mapsto check layer.py:Gate                        a class in a file
  mapsto check my_package.losses:focal --kind loss  where its kind cannot be told
  mapsto check layer --gate                         all layers, only the laws that gate
  mapsto check recipes/digits.py                    every part of a spec, and the whole
  mapsto check torch.nn:GRU --laws layout,L6        two laws
  mapsto check adamw --html check.html --junit check.xml
  mapsto check recipe.py --json -                   a JSON record a verdict, on stdout as they come
  mapsto check recipe.py --changed                  only what this branch touches
  mapsto check recipe.py --write-baseline known.yaml    what fails now is known ...
  mapsto check recipe.py --baseline known.yaml          ... and only what is new fails
  mapsto check --list                               the laws; with a target: those that it owes
  mapsto check --explain layer.layout               one law: what, why, how to satisfy it"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="what to check")
    parser.add_argument("--laws", metavar="NAME,..", help="only these, by name (layer.layout, layout) or id (L2)")
    parser.add_argument("--gate", action="store_true", help="only the laws that gate (P0)")
    parser.add_argument("--thorough", action="store_true", help="the long ones too (P2)")
    parser.add_argument("--record", action="store_true", help="record what the targets give (goldens/) and judge nothing else")
    parser.add_argument("--search", type=_above_zero, default=0.0, metavar="SECONDS", help="a law: search inputs that break it")
    parser.add_argument("--kind", help="the kind of the targets, where it cannot be told")
    parser.add_argument("--wing", help="the wing (torch, ...) whose mappings and laws are meant, where it cannot be told")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: 0)")
    parser.add_argument("--jobs", type=_at_least_one, metavar="N", help="worker processes (default: the cores)")
    parser.add_argument("--limit", type=_above_zero, default=1.0, metavar="FACTOR", help="a factor on the time limits")
    parser.add_argument("--changed", nargs="?", const="", metavar="REF", help="only what changed since REF (the main branch)")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="failures that it names are known, and let pass")
    parser.add_argument("--write-baseline", type=Path, metavar="FILE", help="write what fails now as known failures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a JSON record a law as it is judged; - is stdout")
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
    if options.record and (options.laws or options.list):
        options.parser.error("--record judges no laws and lists none: say it without --laws and --list")
    if options.baseline and options.write_baseline:
        options.parser.error("--baseline and --write-baseline exclude each other: what is written is all that fails")
    if options.write_baseline and options.changed is not None:
        options.parser.error("--write-baseline wants all that is checked, and so no --changed")
    if options.search:
        require("hypothesis", "search", "--search")
    for target in options.targets:
        if not is_package(target):
            trusting.admit(options, target)
    if options.list:
        with runner.server(options.jobs) as served:
            return _list_owed(_resolved(options, served), options)
    return _check(options)


def _resolved(options: argparse.Namespace, served: Server) -> runner.Resolved:
    return runner.resolve(options.targets, served, kind=options.kind, wing=options.wing, limit=options.limit)


def _check(options: argparse.Namespace) -> int:
    """Judge what is to be judged and report; the exit code."""
    outputs, begun, stop = _outputs(options), _Check(options), Stop()
    lines = begun.lines = Lines(options.json) if options.json else None
    with contextlib.closing(lines) if lines else contextlib.nullcontext():
        try:
            with stop.taken():
                begun.judge(stop)
        except KeyboardInterrupt:
            stop.number = stop.number or signal.SIGINT
        results = begun.results(stopped=bool(stop.number))
        code = 128 + stop.number if stop.number else 0 if results.succeeded else 1
        for path, text in outputs:
            durable.replace(path, text(results).encode("utf-8", "backslashreplace"))
        if lines is not None:
            lines.end(results, code)
    begun.paper.report(results)
    for path in (*([options.json] if lines and options.json != STDOUT else []), *(path for path, _ in outputs)):
        note(f"written: {path}")
    if (path := options.write_baseline) is not None and stop.number:
        note(f"not written, since not all was judged: {path}")
    elif begun.baseline is not None and path is not None:
        durable.replace(path, begun.baseline.text().encode("utf-8", "backslashreplace"))
        note(f"written: {path} ({results.counts['known failure']} known failures)")
    if stop.number:
        note("interrupted")
    return code


class _Check:
    """A check as far as it has come."""

    def __init__(self, options: argparse.Namespace) -> None:
        known = options.baseline or options.write_baseline
        self.options, self.began = options, time.perf_counter()
        self.baseline = Baseline(known, every=options.baseline is None) if known is not None else None
        self.changes = changes(options.changed or None) if options.changed is not None else None
        self.paper, self.lines = Paper(stderr=options.json == STDOUT), None
        self.found, self.subjects, self.untouched = runner.Resolved(), list[Subject](), 0
        self.owed: dict[tuple[str, str], list[Law]] = {}
        self.laws: dict[tuple[str, str | None], Law] = {}
        self.made: list[Verdict] = []

    lines: Lines | None

    def judge(self, stop: Stop) -> None:
        """Find what the targets name, and judge it. Raises KeyboardInterrupt where it is stopped."""
        options = self.options
        if self.changes is not None and not self.changes.any:
            self.untouched = len(options.targets)
            return
        with runner.server(options.jobs) as served:
            self.found = _resolved(options, served)
            only = _recorded_by(self.found.laws) if options.record else _named(options)
            runner.require_known(only, self.found.laws)
            self.laws = {(w.name, w.wing): w for w in self.found.laws}
            self.subjects = self._touched(self.changes)
            for s in self.subjects:
                self.owed[s.kind, s.label] = runner.owed(s, self.found.laws, priority=_priority(options), only=only)
            for problem in self.found.problems:
                with stop.held():
                    self._take(of_problem(problem, options.seed))
            with self.paper.following(self.owed) as show:

                def progress(verdict: Verdict) -> None:
                    with stop.held():
                        show(self._take(verdict))

                runner.check(
                    self.subjects, laws=self.found.laws, only=only, thorough=options.thorough, gate=options.gate,
                    record=options.record, search=options.search, seed=options.seed, jobs=options.jobs, limit=options.limit,
                    progress=progress, served=served,
                )  # fmt: skip

    def _touched(self, diff: Changes | None) -> list[Subject]:
        if diff is None:
            return self.found.subjects
        chosen = [s for s in self.found.subjects if diff.touch(self.found.files[s.kind, s.label])]
        self.untouched = len(self.found.subjects) - len(chosen)
        note(f"--changed: {len(chosen)} of {len(self.found.subjects)} mappings are touched since {diff.since}")
        return chosen

    def _take(self, verdict: Verdict) -> Verdict:
        """The verdict as it stands against the baseline, kept and written."""
        made = verdict if self.baseline is None else self.baseline.against_known(verdict)
        self.made.append(made)
        if self.lines is not None:
            self.lines.verdict(made, self.laws.get((made.law, made.wing)) or self.laws.get((made.law, None)))
        return made

    def results(self, *, stopped: bool) -> Results:
        """What was found, in the order of the targets and the catalogue."""
        subjects = [(s.kind, s.label) for s in self.subjects]
        order = {(*subject, w.name): (i, k) for i, subject in enumerate(subjects) for k, w in enumerate(self.owed[subject])}
        last = (len(subjects), 0)
        known = self.baseline is not None and self.options.baseline is not None and not stopped
        return Results(
            verdicts=sorted(self.made, key=lambda v: order.get((v.kind, v.subject, v.law), last)),
            laws=self.laws,
            lawless=[s for s in self.subjects if not self.owed[s.kind, s.label]],
            untouched=self.untouched,
            seed=self.options.seed,
            seconds=time.perf_counter() - self.began,
            left=len(order.keys() - {(v.kind, v.subject, v.law) for v in self.made}),
            remarks=self.baseline.remarks(self.found.subjects, self.found.laws) if known and self.baseline else [],
        )


# -- options ---------------------------------------------------------------------------------------------------------
def _named(options: argparse.Namespace) -> list[str]:
    return [name.strip() for name in (options.laws or "").split(",") if name.strip()]


def _recorded_by(laws: Sequence[Law]) -> list[str]:
    """The laws that record values."""
    return sorted({law.name for law in laws if law.name.endswith(".golden")})


def _priority(options: argparse.Namespace) -> int:
    return 0 if options.gate else 2 if options.thorough else 1


def _outputs(options: argparse.Namespace) -> list[tuple[Path, Callable[[Results], str]]]:
    """Files to write at the end, all known to be writable before anything is judged. Raises SpecError, MissingExtra."""
    writers = (("html", page.html), ("junit", junit.xml))
    found: list[tuple[Path, Callable[[Results], str]]] = [
        (path, text) for name, text in writers if (path := getattr(options, name)) is not None
    ]
    for path in (*(path for path, _ in found), options.json, options.write_baseline):
        if path is None or path == STDOUT:
            continue
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
