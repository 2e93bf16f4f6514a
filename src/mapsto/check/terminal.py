"""Results on a terminal: a list of laws for one mapping, a matrix for several, then the witness of each failure in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.text import Text

from ..core.laws import BAD, Law, Status, Verdict
from .results import Results
from .runner import ORDER
from .words import counted, details, in_words

MARKS: dict[Status, tuple[str, str, str]] = {
    "pass": ("✓", "+", "green"),
    "fail": ("✗", "F", "bold red"),
    "unknown": ("?", "?", "bold yellow"),
    "vacuous": ("○", "o", "bold yellow"),
    "known failure": ("~", "~", "magenta"),
    "expected failure": ("!", "!", "magenta"),
    "not stated": ("–", "-", "dim"),
    "not applicable": ("·", ".", "dim"),
}
"""Status -> mark, mark in ASCII, style."""
LABEL, CELL = 36, 7
"""Columns of a subject's name in a matrix, and of one cell."""


class Stream:
    """Lines that are shown while a check goes on: of one mapping the listing itself, a law a line as they are judged; of
    several each bad verdict, and each mapping when its last law is judged. owed: the laws of each kind and label."""

    def __init__(self, owed: Mapping[tuple[str, str], Sequence[Law]], *, width: int = 100, ascii_only: bool = False) -> None:
        self._paper, self._owed = _Paper(width, ascii_only), owed
        self._made: dict[tuple[str, str], list[Verdict]] = {}
        self._headed = self._found = False

    @property
    def lists(self) -> bool:
        """Whether the listing is shown, so that the report need not."""
        return len(self._owed) == 1

    def lines(self, v: Verdict) -> Iterator[Text]:
        """The lines that a new verdict adds to what is on the terminal."""
        laws, made = self._owed.get((v.kind, v.subject), ()), self._made.setdefault((v.kind, v.subject), [])
        made.append(v)
        if self.lists:
            widest = max((len(_short(w.name, v.kind)) for w in laws), default=0)
            yield from self._head(v)
            yield self._paper.row(v, widest)
            return
        if v.status in BAD:
            mark, style = self._paper.mark(v.status)
            yield Text(f"{mark} {v.law} of {v.subject}: {_first_line(f'{v.status}: {v.reason}')}", style)
        if {w.name for w in laws} <= {m.law for m in made}:
            worst = min((m.status for m in made), key=ORDER.index)
            mark, style = self._paper.mark(worst if worst in BAD else "pass")
            counts = Counter[str](m.status for m in made)
            said = ", ".join(f"{counts[status]} {status}" for status in ORDER[::-1] if counts[status])
            yield Text.assemble((mark, style), f" {v.subject}: {said} ({sum(m.seconds for m in made):.1f} s)")

    def _head(self, v: Verdict) -> Iterator[Text]:
        if not self._headed:
            yield Text.assemble((v.kind, "bold"), "  ", (v.subject, "bold"))
        if not self._found and v.status == "pass" and v.reason:
            self._found = True
            yield Text(f"  {v.reason}", "dim")
        self._headed = True


def lines(results: Results, *, width: int = 100, ascii_only: bool = False, listed: bool = False) -> Iterator[Text]:
    """The whole report; but for the listing of one mapping, where a stream has `listed` it."""
    paper = _Paper(width, ascii_only)
    if results.verdicts:
        yield Text()  # behind what was shown while it went on
    for kind, subjects in results.kinds().items() if not listed else ():
        if len(subjects) == 1:
            yield from paper.listing(kind, subjects[0], results.of(kind, subjects[0]))
        else:
            yield from paper.matrix(kind, {s: results.of(kind, s) for s in subjects}, results)
        yield Text()
    if results.verdicts:
        yield paper.legend({v.status for v in results.verdicts})
    yield from witnesses(results)
    for subject in results.lawless:
        yield Text(f"{subject.label}: a {subject.kind} owes no law that was asked for; nothing is said of it", "yellow")
    for remark in results.remarks:
        yield Text(remark, "yellow")
    yield Text(results.summary(), "bold green" if results.succeeded else "bold red")


def witnesses(results: Results) -> Iterator[Text]:
    """What failed or could not be told, in words; laws of one subject that have the same reason together."""
    for said in results.groups(*BAD):
        yield Text()
        first, law = said[0], results.law(said[0])
        head, *rest = in_words(first, law, script=True).splitlines()
        if len(said) > 1:
            names = ", ".join(v.law for v in said)
            head, rest = f"{first.subject} {first.status}: {len(said)} laws ({names})", details(first, None)
        yield Text(head, MARKS[first.status][2])
        yield from (Text(line) for line in rest)
    if results.bad:
        yield Text()


class _Paper:
    def __init__(self, width: int, ascii_only: bool) -> None:
        self.width, self.ascii_only = max(width, 60), ascii_only

    def mark(self, status: Status) -> tuple[str, str]:
        fancy, plain, style = MARKS[status]
        return plain if self.ascii_only else fancy, style

    def legend(self, shown: set[Status]) -> Text:
        parts = [(f"{self.mark(s)[0]} {s}", MARKS[s][2]) for s in MARKS if s in shown]
        return Text("  ").join(Text(text, style) for text, style in parts)

    def listing(self, kind: str, subject: str, verdicts: list[Verdict]) -> Iterator[Text]:
        """One mapping: a law a line, with what it exercised."""
        yield Text.assemble((kind, "bold"), "  ", (subject, "bold"))
        found = next((v.reason for v in verdicts if v.status == "pass" and v.reason), "")
        if found:
            yield Text(f"  {found}", "dim")
        widest = max((len(_short(v.law, kind)) for v in verdicts), default=0)
        for v in verdicts:
            yield self.row(v, widest)

    def row(self, v: Verdict, widest: int) -> Text:
        """A law of a listing."""
        mark, style = self.mark(v.status)
        text = f"{_short(v.law, v.kind):{widest}}  {v.id:5}{v.seconds:7.1f} s  "
        said = _cut(self._beside(v), self.width - len(text) - 5)
        return Text.assemble("  ", (mark, style), " ", text, (said, style if v.status in BAD else "dim"))

    def _beside(self, v: Verdict) -> str:
        if v.status == "pass":
            controls = f"; {_plural(sum(v.controls.values()), 'control')} differed" if v.controls else ""
            return f"{sum(v.counts.values())} compared: {counted(v.counts, 2)}{controls}"
        return _first_line(f"{v.status}: {v.reason}")

    def matrix(self, kind: str, rows: dict[str, list[Verdict]], results: Results) -> Iterator[Text]:
        """Several mappings of a kind: a row each, a law a column, in bands that fit the width."""
        laws = list(dict.fromkeys(v.law for verdicts in rows.values() for v in verdicts))
        order = [name for name, _ in results.laws]
        laws.sort(key=lambda name: order.index(name) if name in order else len(order))
        per_band = max(1, (self.width - LABEL) // CELL)
        ids = {v.law: v.id or _short(v.law, kind)[: CELL - 1] for verdicts in rows.values() for v in verdicts}
        yield Text(f"{kind}  ({len(rows)} mappings, {len(laws)} laws; a cell: the verdict and its seconds)", "bold")
        for at in range(0, len(laws), per_band):
            band = laws[at : at + per_band]
            yield Text((" " * LABEL + "".join(f"{ids[name]:<{CELL}}" for name in band)).rstrip(), "bold")
            for subject, verdicts in rows.items():
                yield self._row(subject, {v.law: v for v in verdicts}, band)
        yield from self._names(laws, ids, kind)
        yield Text("  exercised", "bold")
        for subject, verdicts in rows.items():
            yield Text(f"  {_exercised(subject, verdicts)}", "dim")

    def _row(self, subject: str, verdicts: dict[str, Verdict], band: Sequence[str]) -> Text:
        row = Text(f"{_tail(subject, LABEL - 2):<{LABEL}}")
        for name in band:
            v = verdicts.get(name)
            if v is None:
                row.append(" " * CELL)
                continue
            mark, style = self.mark(v.status)
            seconds = "" if v.status == "not applicable" else f"{v.seconds:.1f}" if v.seconds < 100 else f"{v.seconds:.0f}"
            row.append(f"{mark} {seconds}".ljust(CELL), style)
        row.rstrip()
        return row

    def _names(self, laws: Sequence[str], ids: dict[str, str], kind: str) -> Iterator[Text]:
        """What the columns are called."""
        line = " "
        for name in laws:
            word = f" {ids[name]} {_short(name, kind)}"
            if len(line) + len(word) + 1 > self.width:
                yield Text(line.rstrip(","), "dim")
                line = " "
            line += word + ","
        yield Text(line.rstrip(","), "dim")


def _exercised(subject: str, verdicts: list[Verdict]) -> str:
    compared = sum(sum(v.counts.values()) for v in verdicts)
    differed = sum(sum(v.controls.values()) for v in verdicts)
    seconds = sum(v.seconds for v in verdicts)
    return (
        f"{_tail(subject, LABEL - 3):<{LABEL - 3}} {compared:7,} comparisons, {differed:4} controls differed, {seconds:6.1f} s"
    )


def _plural(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _short(law: str, kind: str) -> str:
    return law.removeprefix(f"{kind}.")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def _tail(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[-(width - 1) :]
