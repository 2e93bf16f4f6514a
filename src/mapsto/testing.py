"""The laws in one's own test-suite, each a test of its own:

from mapsto.testing import laws_of

@laws_of("my_package:MyLayer")
def test_laws(law):
    law()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .check.runner import check, owed
from .check.targets import find, of_target, subjects
from .core.laws import BAD, Law, Subject, Trial, Verdict, find_law, verdict

__all__ = ["LawBroken", "judge_law", "laws_of"]


class LawBroken(AssertionError):
    """A law that is broken or could not be decided, with its witness in words."""


def laws_of(
    *targets: Any, kind: str | None = None, only: Iterable[str] = (), gate: bool = False, thorough: bool = False, seed: int = 0
) -> Callable[[Callable[..., Any]], Any]:
    """Parametrise a pytest function over every law that the targets owe; its argument `law` is called to demand it.

    targets: names, import paths or the objects themselves. gate: priority 0 alone; thorough: priority 2 as well.
    """
    import pytest

    chosen, priority = list(only), 0 if gate else 2 if thorough else 1
    found = [s for t in targets for s in (subjects([t], kind=kind) if isinstance(t, str) else [of_target(t, kind)])]
    items = [
        pytest.param(_demand(s, w, seed, thorough), id=f"{s.label.rpartition(':')[2]}-{w.name}")
        for s in found
        for w in owed(s, priority=priority, only=chosen)
        if w.ranks == 1
    ]
    return pytest.mark.parametrize("law", items)


def _demand(subject: Subject, law: Law, seed: int, thorough: bool) -> Callable[[], None]:
    def demand() -> None:
        import pytest

        made = verdict(Trial(subject, law, seed=seed, thorough=thorough))
        if made.status == "not applicable":
            pytest.skip(made.reason)
        if made.status == "expected failure":
            pytest.xfail(made.reason)
        if made.status in BAD:
            raise LawBroken(in_words(made, law))

    return demand


def judge_law(target: Any, law: str, *, kind: str | None = None, seed: int = 0, thorough: bool = False) -> Verdict:
    """The verdict of one law on one target: in this process, or in as many as the law has ranks."""
    if isinstance(target, str) and "#" in target:
        subject = find(target, kind or "program")
    else:
        subject = subjects([target], kind=kind)[0] if isinstance(target, str) else of_target(target, kind)
    judged = find_law(law)
    if judged.ranks > 1:
        return check([subject], only=[judged.name], thorough=thorough, seed=seed)[0]
    return verdict(Trial(subject, judged, seed=seed, thorough=thorough))


def in_words(made: Verdict, law: Law) -> str:
    """A verdict for people: the law, what was seen, the numbers and how to satisfy it."""
    lines = [f"{made.subject} {made.status}: law {made.law} ({made.id}): {law.statement}", f"  {made.reason}"]
    if made.witness is not None:
        w = made.witness
        if w.case:
            lines.append("  case: " + ", ".join(f"{k}={v}" for k, v in w.case.items()))
        if w.measured is not None:
            lines.append(f"  measured {w.measured}, allowed {w.allowed} ({law.tolerance})")
        if w.first:
            lines.append("  first: " + ", ".join(f"{k} {v}" for k, v in w.first.items()))
        if w.cause:
            lines.append(f"  likely cause: {w.cause}")
    lines.append(f"  to satisfy it: {law.satisfy}")
    return "\n".join(lines)
