"""The runner: every owed law of every subject in worker processes, each with a time limit, none able to stop the others."""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..core.laws import Law, Subject, Verdict, Witness, all_laws, laws_for
from .process import Dead, Group
from .targets import recipe_files

Progress = Callable[[Verdict, int, int], None]


def owed(subject: Subject, *, priority: int = 1, only: Iterable[str] = ()) -> list[Law]:
    """The laws that a subject owes: those of its kind, or of them only the named ones (name, id or end of name)."""
    chosen = set(only)
    if not chosen:
        return laws_for(subject.kind, priority=priority)
    return [w for w in laws_for(subject.kind, priority=2) if chosen & {w.name, w.id, w.name.partition(".")[2]}]


def check(
    subjects: Sequence[Subject],
    *,
    only: Iterable[str] = (),
    thorough: bool = False,
    gate: bool = False,
    seed: int = 0,
    jobs: int | None = None,
    limit: float = 1.0,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Verdicts of all laws that the subjects owe, in a stable order.

    only: laws by name or id; gate: priority 0 alone; thorough: priority 2 as well; jobs: worker processes (default: the
    cores); limit: a factor on every law's time limit.
    """
    only = list(only)
    priority = 0 if gate else 2 if thorough else 1
    tasks = [(s, w) for s in subjects for w in owed(s, priority=priority, only=only)]
    made: dict[tuple[str, str, str], Verdict] = {}
    lock = threading.Lock()

    def done(task: tuple[Subject, Law], verdict: Verdict) -> None:
        with lock:
            made[task[0].kind, task[0].label, task[1].name] = verdict
            if progress is not None:
                progress(verdict, len(made), len(tasks))

    settings: dict[str, Any] = {"seed": seed, "thorough": thorough, "recipes": recipe_files()}
    waiting: dict[int, queue.SimpleQueue[tuple[Subject, Law]]] = {}
    for task in sorted(tasks, key=lambda t: -t[1].seconds):  # the long ones first, so that none is left alone at the end
        waiting.setdefault(task[1].ranks, queue.SimpleQueue()).put(task)
    count = max(1, min(jobs or os.cpu_count() or 1, len(tasks)))
    threads = []
    for ranks, line in waiting.items():
        for _ in range(count if ranks == 1 else 1):
            threads.append(threading.Thread(target=_serve, args=(ranks, line, settings, limit, done), daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # a join without a timeout would not be interrupted
            thread.join(0.2)
    unmatched = [v for s in subjects for v in _unmatched(s)]
    return [made[s.kind, s.label, w.name] for s, w in tasks if (s.kind, s.label, w.name) in made] + unmatched


def _serve(
    ranks: int,
    waiting: queue.SimpleQueue[tuple[Subject, Law]],
    settings: dict[str, Any],
    limit: float,
    done: Callable[[tuple[Subject, Law], Verdict], None],
) -> None:
    group: Group | None = None
    try:
        while True:
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            subject, law = task
            request = {
                "law": law.name, "label": subject.label, "kind": subject.kind, "reference": subject.reference, **settings,
            }  # fmt: skip
            began = time.perf_counter()
            try:
                group = group or Group(ranks)
                answers = group.ask(request, law.seconds * limit)
                verdict = _together([_verdict(a) for a in answers])
                if any(a["changed"] or a["children"] for a in answers):
                    verdict = _told(verdict, answers)
                    group.end()
                    group = None
                else:
                    verdict = replace(verdict, output=group.output()[-2000:])
            except Dead as dead:
                blank = Verdict(
                    subject=subject.label, kind=subject.kind, law=law.name, id=law.id, priority=law.priority, status="unknown",
                    reason=str(dead), seconds=time.perf_counter() - began, seed=settings["seed"],
                )  # fmt: skip
                verdict = replace(blank, output=group.output()[-2000:]) if group is not None else blank
                if group is not None:
                    group.end()
                group = None
            done(task, verdict)
    finally:
        if group is not None:
            group.end()


def _verdict(answer: dict[str, Any]) -> Verdict:
    data = dict(answer["verdict"])
    if data["witness"] is not None:
        data["witness"] = Witness(**data["witness"])
    return Verdict(**data)


def _together(verdicts: list[Verdict]) -> Verdict:
    """What a group of ranks found: the worst of it, told by the first rank that found it."""
    order = ("fail", "unknown", "vacuous", "expected failure", "not applicable", "pass")
    worst = min(range(len(verdicts)), key=lambda r: (order.index(verdicts[r].status), r))
    found = verdicts[worst]
    if len(verdicts) > 1 and found.status in ("fail", "unknown"):
        return replace(found, reason=f"rank {worst}: {found.reason}")
    return found


def _told(verdict: Verdict, answers: list[dict[str, Any]]) -> Verdict:
    """A component that changes global settings, or leaves processes behind, does not pass."""
    changed = sorted({name for a in answers for name in a["changed"]})
    left = max(a["children"] for a in answers)
    said = [f"it changed the {name}" for name in changed] + ([f"it left {left} process(es) running"] if left else [])
    text = " and ".join(said)
    if verdict.status != "pass":
        return replace(verdict, reason=f"{verdict.reason} ({text})")
    return replace(verdict, status="fail", reason=text, witness=Witness(said=text, cause="global state"))


def _unmatched(subject: Subject) -> list[Verdict]:
    """Expected failures that name no law: data that rots."""
    laws = all_laws()
    known = set(laws) | {law.id for law in laws.values()}
    return [
        Verdict(
            subject=subject.label, kind=subject.kind, law=name, id="", priority=0, status="fail",
            reason=f"`expect` names the law {name!r}, which does not exist",
        )
        for name in subject.example.expect
        if name not in known
    ]  # fmt: skip


def record(verdict: Verdict) -> dict[str, Any]:
    """One JSON record a law."""
    return dataclasses.asdict(verdict)
