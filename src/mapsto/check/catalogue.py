"""The laws on paper: as data from a worker (so that asking loads no framework here), as a page, one explained in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ..core.errors import RegistryError
from ..core.laws import TOLERANCES, Law, Trial
from .needs import needs

PRIORITIES = {
    0: "P0: it gates (`--gate` runs these alone)",
    1: "P1: it runs by default",
    2: "P2: it runs with `--thorough`",
}


def from_data(found: Iterable[dict[str, Any]]) -> list[Law]:
    """Laws as a worker tells them: everything but their checks."""
    return [
        Law(**{**data, "kinds": tuple(data["kinds"]), "catches": tuple(data["catches"])}, check=_elsewhere) for data in found
    ]


def _elsewhere(trial: Trial) -> None:
    raise RegistryError(f"law {trial.law.name}: its check stands in a worker process")


def explanation(law: Law) -> str:
    """A law in words: what it says, why, what it catches, how exactly it is measured, how to satisfy it."""
    paragraphs = [
        f"{law.name} ({law.id}), a law of {_and(law.kinds)}",
        law.statement,
        f"Why: {law.why}",
        f"To satisfy it: {law.satisfy}",
        f"Measured: {law.tolerance}, {TOLERANCES[law.tolerance]}.",
        f"When: {PRIORITIES[law.priority]}. Its time limit is {law.seconds:.0f} s"
        + (f"; {law.ranks} processes judge it together." if law.ranks > 1 else "."),
    ]
    if law.catches:
        paragraphs.insert(3, f"Real bugs it catches: {'; '.join(law.catches)}")
    text = "\n\n".join(textwrap.fill(p, 100) for p in paragraphs)
    return f"{text}\n\nTry it:\n  mapsto check {law.kinds[0]} --laws {law.name}"


def listing(laws: Sequence[Law]) -> list[tuple[str, ...]]:
    """Rows for a table: name, id, priority, tolerance, statement."""
    return [(w.name, w.id, f"P{w.priority}", w.tolerance, first_sentence(w.statement)) for w in laws]


def first_sentence(text: str) -> str:
    """Up to the first full stop, colon or semicolon that stands outside of braces (`{replicate: 2}`)."""
    depth = 0
    for place, (mark, after) in enumerate(pairwise(f"{text} ")):
        depth += (mark in "{([") - (mark in "})]")
        if depth <= 0 and mark in ".:;" and after == " ":
            return text[:place]
    return text


def page(laws: Sequence[Law]) -> str:
    """The page docs/laws.md in Markdown: a table of the laws of each kind, and a section on every law."""
    lines = [
        "# The laws",
        "",
        "What each kind of mapping owes, as `mapsto check` judges it ([how](check.md)).",
        "`mapsto check --explain LAW` prints one. This page is written by `mapsto check --list --markdown > docs/laws.md`.",
        "",
        "| tolerance | means |",
        "|---|---|",
        *(f"| {name} | {_cell(text)} |" for name, text in TOLERANCES.items()),
        "",
        f"{PRIORITIES[0]}; {PRIORITIES[1]}; {PRIORITIES[2]}.",
        "",
        "A law *of all* is neutral: it judges mappings of every wing, native kinds through its driver, of which it says "
        "what it needs ([a wing of one's own](plugins.md#a-wing-of-ones-own)). One of a wing judges that wing's alone.",
    ]
    for kind in dict.fromkeys(w.kinds[0] for w in laws):
        own = [w for w in laws if w.kinds[0] == kind]
        lines += ["", f"## {kind}", "", "| law | id | | | of | what it says |", "|---|---|---|---|---|---|"]
        lines += [
            f"| [`{w.name}`](#{_anchor(w)}) | {w.id} | P{w.priority} | {w.tolerance} | {w.wing or 'all'} "
            f"| {_cell(first_sentence(w.statement))} |"
            for w in own
        ]
        for law in own:
            lines += ["", f"### {law.name}", *_entry(law)]
    return "\n".join(lines) + "\n"


def _entry(law: Law) -> list[str]:
    also = f" Also of {_and(law.kinds[1:])}." if len(law.kinds) > 1 else ""
    ranks = f", {law.ranks} ranks" if law.ranks > 1 else ""
    lines = ["", f"{law.id}, P{law.priority}, {law.tolerance}{ranks}.{also} {_end(law.statement)}", ""]
    lines += [f"* Why: {_end(law.why)}", f"* To satisfy it: {_end(law.satisfy)}"]
    if law.catches:
        lines.append(f"* Catches: {'; '.join(law.catches)}.")
    if law.driver is not None and (read := needs(law)):
        lines.append(f"* Driver: `{law.driver.__name__}`, of which it needs {_and([f'`{name}`' for name in read])}.")
    return lines


def _end(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _anchor(law: Law) -> str:
    return law.name.replace(".", "").lower()


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
