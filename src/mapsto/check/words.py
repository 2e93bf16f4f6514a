"""Verdicts for people: what was seen, the numbers, where, why, how to satisfy the law, how to see it again."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping

from ..core.laws import Law, Verdict

SHOWN = 30
"""Lines of a script, and of output, that are shown."""


def in_words(made: Verdict, law: Law | None, *, script: bool = False) -> str:
    """A verdict with its witness, an item a line; with its script where asked for. law: None where the name has none."""
    title = f"law {law.name} ({law.id}): {law.statement}" if law is not None else made.law
    return "\n".join([f"{made.subject} {made.status}: {title}", *details(made, law, script=script)])


def details(made: Verdict, law: Law | None, *, script: bool = False) -> list[str]:
    """The lines of a verdict below its title."""
    lines = [f"  {line}" for line in made.reason.splitlines()]
    if made.witness is not None:
        w = made.witness
        if w.said and w.said not in made.reason:
            lines.append(f"  {w.said}")
        if w.case:
            lines.append("  case: " + pairs(w.case, "="))
        if w.measured is not None:
            lines.append(
                f"  measured {number(w.measured)}, allowed {number(w.allowed)}"
                + (f" ({law.tolerance})" if law is not None else "")
            )
        if w.first:
            lines.append("  first: " + pairs(w.first, " "))
        if w.cause:
            lines.append(f"  likely cause: {w.cause}")
    if law is not None and made.status in ("fail", "vacuous"):
        lines.append(f"  to satisfy it: {law.satisfy}")
        lines += [f"  in {made.wing}: {made.advice}"] if made.advice else []
    if made.status == "unknown" and made.output.strip():
        lines += ["  it printed:", *(f"    {line}" for line in made.output.strip().splitlines()[-SHOWN:])]
    if made.id:
        lines.append(f"  again: {command(made)}")
    if script and made.witness is not None and made.witness.script and "judge_law(" not in made.witness.script:
        lines += ["  by itself:", textwrap.indent(made.witness.script.strip(), "    ")]
    return lines


def command(made: Verdict) -> str:
    """The command that judges this law on this subject again."""
    target, part, _ = (made.reference or made.subject).partition("#")
    kind = f" --kind {made.kind}" if ":" in target and not part else ""
    seed = f" --seed {made.seed}" if made.seed else ""
    return f"mapsto check {shlex.quote(target)} --laws {made.law}{kind}{seed}"


def number(value: object) -> str:
    """A number in six digits; anything else as it is."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def pairs(data: Mapping[str, object], between: str) -> str:
    """The items of a mapping in a line, such as `size=1, dtype=float64`."""
    return ", ".join(f"{k}{between}{v}" for k, v in data.items())


def counted(counts: Mapping[str, int], most: int = 3) -> str:
    """What was exercised: `24 the compiled call, 6 gradients`."""
    found = sorted(((n, what) for what, n in counts.items() if n), key=lambda item: -item[0])
    more = f", {len(found) - most} more" if len(found) > most else ""
    return ", ".join(f"{n} {what}" for n, what in found[:most]) + more
