"""The laws in one's own test-suite, each a test of its own:

from mapsto.testing import laws_of

@laws_of("my_package:MyLayer")
def test_laws(law):
    law()
"""

from __future__ import annotations

import atexit
import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .check.process import Server
from .check.runner import check, gating, owed, require_known, server
from .check.targets import find, of_target, subjects
from .check.words import in_words
from .core.errors import SpecError
from .core.law_wings import law_wings
from .core.laws import BAD, Example, Law, Laws, Subject, Trial, Verdict, all_laws, find_law, verdict
from .core.wings import DEFAULT

__all__ = ["Example", "Law", "LawBroken", "Laws", "Subject", "Trial", "Verdict", "in_words", "judge_law", "laws_of"]


class LawBroken(AssertionError):
    """A law that is broken or could not be decided, with its witness in words."""


def laws_of(
    *targets: Any,
    kind: str | None = None,
    wing: str | None = None,
    only: Iterable[str] = (),
    gate: bool = False,
    thorough: bool = False,
    seed: int = 0,
) -> Callable[[Callable[..., Any]], Any]:
    """Parametrise a pytest function over every law that the targets owe; its argument `law` is called to demand it.

    targets: names, import paths, specs, or the objects themselves; kind, wing: theirs, where it cannot be told. gate: priority
    0 alone; thorough: priority 2 as well.
    Raises SpecError where a target owes no law, since a test of nothing would pass.
    """
    import pytest

    priority, chosen, items = 0 if gate else 2 if thorough else 1, list(only), []
    found = [s for t in targets for s in _subjects(t, kind, wing)]
    laws = list(all_laws({DEFAULT, *(s.wing for s in found)}).values())
    require_known(chosen, laws)
    for subject in found:
        own = owed(subject, laws, priority=priority, only=chosen)
        if not own and len(targets) == 1 and "#" not in subject.reference:
            raise SpecError(
                f"{subject.label}: a {subject.kind} owes no law" + (f" named {', '.join(chosen)}" if chosen else "")
            )
        label = subject.label.rpartition(":")[2]
        items += [pytest.param(_Demand(subject, w, seed, thorough, gate), id=f"{label}-{w.name}") for w in own]
    return pytest.mark.parametrize("law", items)


class _Demand:
    """What a test calls: judges one law, and raises LawBroken, skips or expects the failure."""

    def __init__(self, subject: Subject, law: Law, seed: int, thorough: bool, gate: bool) -> None:
        self.subject, self.law, self.seed, self.thorough, self.gate = subject, law, seed, thorough, gate

    def __repr__(self) -> str:
        return f"{self.law.name} of {self.subject.label}"

    def __call__(self) -> None:
        import pytest

        if self.law.ranks > 1 and not self.subject.reference:
            pytest.skip(
                f"{self.law.ranks} processes judge {self.law.name}, and they cannot find {self.subject.label} again: "
                "name it by its import path"
            )
        made = _judged(self.subject, self.law, self.seed, self.thorough)
        made = gating(made) if self.gate else made
        if made.status in ("not applicable", "not stated"):
            pytest.skip(made.reason)
        if made.status == "expected failure":
            pytest.xfail(made.reason)
        if made.status in BAD:
            raise LawBroken(in_words(made, self.law, script=True))


def _subjects(target: Any, kind: str | None, wing: str | None) -> list[Subject]:
    return subjects([target], kind=kind, wing=wing) if isinstance(target, str) else [of_target(target, kind, wing=wing)]


def judge_law(
    target: Any, law: str, *, kind: str | None = None, wing: str | None = None, seed: int = 0, thorough: bool = False
) -> Verdict:
    """The verdict of one law on one target: in this process, or in as many as the law has ranks."""
    if isinstance(target, str) and "#" in target:
        subject = find(target, kind or "program", wing)
    else:
        subject = _subjects(target, kind, wing)[0]
    return _judged(subject, find_law(law, subject.wing), seed, thorough)


def _judged(subject: Subject, law: Law, seed: int, thorough: bool) -> Verdict:
    if law.ranks > 1:
        return check([subject], only=[law.name], thorough=thorough, seed=seed, served=_ranks(tuple(sys.path)))[0]
    with warnings.catch_warnings(), _settings_kept() as changed:
        warnings.simplefilter("ignore")
        made = verdict(Trial(subject, law, seed=seed, thorough=thorough))
    if changed and made.status == "pass":
        raise LawBroken(f"{subject.label}: it changed the {' and the '.join(changed)}, which no component may")
    return made


@functools.lru_cache(1)
def _ranks(path: tuple[str, ...]) -> Server:  # noqa: ARG001  # it finds modules where this process does
    """The server that ranks are forked from: to start one costs seconds, and a suite judges many mappings."""
    made = server()
    atexit.register(made.close)
    return made


@contextmanager
def _settings_kept() -> Iterator[list[str]]:
    """One thread, as in workers; then the frameworks' settings as they were, and the names of those that were changed."""
    wings, changed = law_wings(), list[str]()
    own = [wing.globals() for wing in wings]
    for wing in wings:
        wing.use_one_thread()
    begun = [wing.globals() for wing in wings]
    try:
        yield changed
    finally:
        for wing, settings, before in zip(wings, own, begun, strict=True):
            now = wing.globals()
            changed += [name for name, value in before.items() if now.get(name) != value]
            if now != settings:
                wing.put_back(settings)
