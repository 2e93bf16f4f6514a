"""The runner: every owed law of every subject in worker processes, each with a time limit, none able to stop the others."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import RegistryError, UnknownName, nearest
from ..core.laws import Example, Law, Subject, Verdict, Witness, all_laws
from ..core.wings import DEFAULT
from . import catalogue
from .process import Dead, Group, Server
from .targets import Problem, recipe_files

Progress = Callable[[Verdict], None]
Task = tuple[Subject, Law]
ORDER = ("fail", "unknown", "vacuous", "not stated", "known failure", "expected failure", "not applicable", "pass")
"""Verdicts from the worst to the best."""
IMPORT_LIMIT = 60.0
"""Seconds of computing, or of sleeping, in which a target must have been imported."""
LATE, SHORT = 2, 10.0
"""A mapping that did not answer so many times has so many seconds for each further law."""
LOOK = 0.05
"""Seconds between two looks whether the server has imported all."""
FREE = 0.8
"""The share of the memory of the machine (or container) that all workers together may allocate."""


def owed(subject: Subject, laws: Sequence[Law], *, priority: int = 1, only: Iterable[str] = ()) -> list[Law]:
    """The laws that a subject owes: those of its kind and wing up to a priority, or of them only the named ones."""
    chosen = set(only)
    own = sorted((w for w in laws if w.judges(subject)), key=lambda w: w.kinds[0] != subject.kind)
    return [w for w in own if chosen & spellings(w)] if chosen else [w for w in own if w.priority <= priority]


def spellings(law: Law) -> set[str]:
    """How a law may be named: `layer.layout`, `layout`, `L2`."""
    return {law.name, law.name.partition(".")[2], law.id}


def require_known(only: Iterable[str], laws: Sequence[Law]) -> None:
    """Raises UnknownName for a name that no law has, with the nearest."""
    for name in only:
        if not any(name in spellings(w) for w in laws):
            raise UnknownName(f"there is no law {name!r}; {nearest(name, [w.name for w in laws])}")


def memory_of_a_worker(jobs: int) -> int:
    """Bytes that each of so many workers may allocate, by what the machine or its container has; at least 1 GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(1 << 30, int(FREE * total / jobs))


def server(jobs: int | None = None) -> Server:
    """A fork server whose workers may take their share of the memory."""
    return Server(memory=memory_of_a_worker(jobs or os.cpu_count() or 1))


# -- resolving -------------------------------------------------------------------------------------------------------
@dataclass
class Resolved:
    """What targets name: subjects (their targets stand in the workers), problems, all laws, and the files by which each
    subject is defined, by kind and label."""

    subjects: list[Subject] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    laws: list[Law] = field(default_factory=list)
    files: dict[tuple[str, str], list[str]] = field(default_factory=dict)


def resolve(
    targets: Iterable[str], served: Server, *, kind: str | None = None, wing: str | None = None, limit: float = 1.0
) -> Resolved:
    """What the targets name, found in a worker: a target that cannot be imported, or ends the process, is a problem. The laws
    are the neutral ones and those of the subjects' wings.

    Raises RegistryError where the laws themselves cannot be imported.
    """
    found, seen = Resolved(), set[tuple[str, str]]()
    with _Asker(served, IMPORT_LIMIT * limit) as asker:
        laws = _laws(asker, [DEFAULT])
        for target in targets:
            try:
                told = asker.ask({"do": "resolve", "target": target, "subject_kind": kind, "wing": wing})
            except Dead as dead:
                found.problems.append(Problem(subject=target, kind=kind or "", reason=f"when it was imported, {dead}"))
                continue
            found.problems += [Problem(**p) for p in told["problems"]]
            for data in told["subjects"]:
                if (key := (data["kind"], data["label"])) not in seen:
                    seen.add(key)
                    _describe(asker, data, wing, found)
            if told["subjects"]:  # a file may declare laws beside its mappings
                laws |= _laws(asker, {DEFAULT, *(s.wing for s in found.subjects)})
    found.laws = list(laws.values())
    return found


def _laws(asker: _Asker, wings: Iterable[str | None]) -> dict[tuple[str, str | None], Law]:
    told = asker.ask({"do": "laws", "wings": sorted(filter(None, wings))})
    if told.get("problem"):
        raise RegistryError(f"the laws cannot be loaded: {told['problem']}")
    return {(w.name, w.wing): w for w in catalogue.from_data(told["laws"])}


def _describe(asker: _Asker, data: dict[str, Any], wing: str | None, found: Resolved) -> None:
    try:
        told = asker.ask({"do": "describe", "reference": data["reference"], "kind": data["kind"], "wing": wing})
        problem = told.get("problem")
    except Dead as dead:
        told, problem = {}, f"when it was imported, {dead}"
    if problem:
        found.problems.append(Problem(subject=data["label"], kind=data["kind"], reason=problem))
    else:
        found.subjects.append(Subject(**data, target=None, example=Example(expect=told["expect"]), wing=told["wing"]))
        found.files[data["kind"], data["label"]] = told["files"]


class _Asker:
    """A worker for questions, replaced when one of them ends it."""

    def __init__(self, served: Server, limit: float) -> None:
        self._server, self._limit, self._group = served, limit, None

    _group: Group | None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer. Raises Dead."""
        self._group = self._group or Group(self._server)
        try:
            return self._group.ask({**request, **surroundings()}, self._limit)[0]
        except Dead:
            self._group.end()
            self._group = None
            raise

    def __enter__(self) -> _Asker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._group is not None:
            self._group.end()


def surroundings() -> dict[str, Any]:
    """What a worker needs to find what is found here."""
    return {"recipes": recipe_files(), "path": [path for path in sys.path if path]}


# -- judging ---------------------------------------------------------------------------------------------------------
def check(
    subjects: Sequence[Subject],
    *,
    laws: Sequence[Law] | None = None,
    only: Iterable[str] = (),
    thorough: bool = False,
    gate: bool = False,
    record: bool = False,
    search: float = 0.0,
    seed: int = 0,
    jobs: int | None = None,
    limit: float = 1.0,
    progress: Progress | None = None,
    served: Server | None = None,
) -> list[Verdict]:
    """Verdicts of all laws that the subjects owe, in a stable order.

    laws: those that there are (default: as registered here); only: those of these names or ids; gate: priority 0 alone;
    thorough: priority 2 as well; record: laws of recorded values (`golden`) write them anew; search: seconds of
    computing in which each law of what an author states searches for inputs that break it;
    jobs: worker processes (default: the cores); limit: a factor on every law's time limit;
    progress: called in this thread with each verdict when it is there; served: a fork server to share. Raises UnknownName
    where `only` names no law, and whatever `progress` or a signal raises, when every worker has ended.
    """
    laws, only = list(all_laws({s.wing for s in subjects}).values()) if laws is None else laws, list(only)
    require_known(only, laws)
    priority = 0 if gate else 2 if thorough else 1
    tasks = [(s, w) for s in subjects for w in owed(s, laws, priority=priority, only=only)]
    run = _Run(limit=limit, seed=seed, thorough=thorough, gate=gate, record=record, search=search)
    tell = progress or (lambda _: None)
    count = max(1, min(jobs or os.cpu_count() or 1, len(tasks)))
    unmatched = [v for s in subjects for v in _unmatched(s, laws, seed)]
    for verdict in unmatched:
        tell(verdict)
    if tasks:
        with served_by(served, count) as shared:
            _carry_out(run, tasks, count, shared, tell)
    return [run.made[s.kind, s.label, w.name] for s, w in tasks] + unmatched


@contextlib.contextmanager
def served_by(served: Server | None, jobs: int) -> Iterator[Server]:
    """The server that is shared, or one of one's own for as long as this lasts."""
    if served is not None:
        yield served
    else:
        with server(jobs) as own:
            yield own


def _carry_out(run: _Run, tasks: list[Task], count: int, served: Server, tell: Progress) -> None:
    waiting: dict[int, list[Task]] = {}
    for task in tasks:
        waiting.setdefault(task[1].ranks, []).append(task)
    threads = [
        threading.Thread(target=run.serve, args=(ranks, line, served), kwargs={"early": ranks == 1 and not k}, daemon=True)
        for ranks, line in waiting.items()
        for k in range(count if ranks == 1 else 1)
    ]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) or not run.judged.empty():
            with contextlib.suppress(queue.Empty):
                tell(run.judged.get(timeout=0.1))
    except BaseException:
        run.stopped.set()
        served.close()  # ends every worker, and so every wait for one
        for thread in threads:
            thread.join(10)
        raise
    if run.error is not None:
        raise run.error


class _Run:
    """What the threads that ask workers share."""

    def __init__(self, *, limit: float, seed: int, thorough: bool, gate: bool, record: bool, search: float) -> None:
        self.limit, self.seed, self.thorough, self.gate = limit, seed, thorough, gate
        self.record, self.search = record, search
        self.late: Counter[str] = Counter()
        self.made: dict[tuple[str, str, str], Verdict] = {}
        self.judged = queue.SimpleQueue[Verdict]()
        self.stopped, self._lock = threading.Event(), threading.Lock()
        self.error: Exception | None = None

    def _next(self, waiting: list[Task], *, warm: bool) -> Task | None:
        """The next task: a long one, so that none is left alone at the end; before the server is warm, a short one."""
        with self._lock:
            if not waiting:
                return None
            chosen = (max if warm else min)(waiting, key=lambda task: task[1].seconds)  # the first of those
            waiting.remove(chosen)
            return chosen

    def serve(self, ranks: int, waiting: list[Task], served: Server, *, early: bool) -> None:
        """Take one task after another to a worker (or a group of ranks), which is kept while it stays as it was.

        early: begin with the short ones while the server still imports what only long ones need; others wait for that, and
        a worker that was made before is replaced then.
        """
        group: Group | None = None
        warm = False
        try:
            while waiting and not self.stopped.is_set():
                if not warm and (warm := served.is_warm()) and group is not None:
                    group.end()
                    group = None
                if not warm and not early:
                    time.sleep(LOOK)
                    continue
                if (task := self._next(waiting, warm=warm)) is None:
                    return
                verdict, group = self._judged(task, group, ranks, served)
                verdict = gating(verdict) if self.gate else verdict
                if not self.stopped.is_set():
                    self.made[task[0].kind, task[0].label, task[1].name] = verdict
                    self.judged.put(verdict)
        except Exception as error:  # noqa: BLE001  # raised again by the thread that waits
            self.error = error
            self.stopped.set()
        finally:
            if group is not None:
                group.end()

    def _judged(self, task: Task, group: Group | None, ranks: int, served: Server) -> tuple[Verdict, Group | None]:
        """The verdict, and the group where it can go on."""
        subject, law = task
        request = {
            "do": "judge", "label": subject.label, "kind": subject.kind, "reference": subject.reference, "wing": subject.wing,
            "law": law.name, "id": law.id, "priority": law.priority,
            "seed": self.seed, "thorough": self.thorough, "record": self.record, "search": self.search,
            **surroundings(),
        }  # fmt: skip
        began = time.perf_counter()
        try:
            group = group or Group(served, ranks)
            answers = group.ask(request, self._limit(subject, law))
        except Dead as dead:
            self.late[subject.label] += 1
            reason, output = str(dead), group.output() if group is not None else ""
            if group is not None:
                group.end()
            if self.late[subject.label] > LATE:
                reason += f": a short limit, since {LATE} of its laws did not answer before"
            return self._ended(task, reason, output, time.perf_counter() - began), None
        verdict = together({a["rank"]: _verdict(a) for a in answers}, ranks)
        verdict = replace(verdict, output=group.output()[-2000:])
        broken = ranks > 1 and verdict.status in ("fail", "unknown")  # ranks that lost each other do not meet again
        if len(answers) == ranks and not broken and not any(a["changed"] or a["left"] for a in answers):
            return verdict, group
        group.end()
        return blamed(verdict, answers), None

    def _limit(self, subject: Subject, law: Law) -> float:
        """The law's time limit; a short one where laws of this subject did not answer already, as it may hang in each."""
        limit = law.seconds * self.limit + self.search
        return limit if self.late[subject.label] < LATE else min(limit, SHORT * self.limit)

    def _ended(self, task: Task, reason: str, output: str, seconds: float) -> Verdict:
        subject, law = task
        return Verdict(
            subject=subject.label, kind=subject.kind, law=law.name, id=law.id, priority=law.priority, status="unknown",
            reason=reason, seconds=seconds, seed=self.seed, output=output[-2000:], reference=subject.reference,
            wing=subject.wing,
        )  # fmt: skip


def _verdict(answer: dict[str, Any]) -> Verdict:
    data = dict(answer["verdict"])
    if data["witness"] is not None:
        data["witness"] = Witness(**data["witness"])
    return Verdict(**data)


def together(verdicts: Mapping[int, Verdict], ranks: int) -> Verdict:
    """What a group of ranks found: the worst of it, told by the first rank that found it."""
    worst = min(verdicts, key=lambda r: (ORDER.index(verdicts[r].status), r))
    found = verdicts[worst]
    if ranks > 1 and found.status in ("fail", "unknown"):
        return replace(found, reason=f"rank {worst}: {found.reason}")
    return found


def gating(verdict: Verdict) -> Verdict:
    """The verdict where the check gates: there what the author does not state is unknown."""
    return replace(verdict, status="unknown") if verdict.status == "not stated" else verdict


def blamed(verdict: Verdict, answers: list[dict[str, Any]]) -> Verdict:
    """A component that changes global settings, or leaves processes behind, does not pass."""
    changed = sorted({name for a in answers for name in a["changed"]})
    left = sorted({name for a in answers for name in a["left"]})
    said = [f"it changed the {name}" for name in changed] + [f"it left a process running ({name})" for name in left]
    text = " and ".join(said)
    if not text:
        return verdict
    if verdict.status != "pass":
        return replace(verdict, reason=f"{verdict.reason} ({text})")
    return replace(verdict, status="fail", reason=text, witness=Witness(said=text, cause="global state"))


def _unmatched(subject: Subject, laws: Sequence[Law], seed: int) -> list[Verdict]:
    """Expected failures that name no law of the kind: data that rots."""
    own = [w for w in laws if w.judges(subject)]
    known = {name for w in own for name in (w.name, w.id)}
    return [
        Verdict(
            subject=subject.label, kind=subject.kind, law=name, id="", priority=0, status="fail", seed=seed, wing=subject.wing,
            reference=subject.reference,
            reason=f"`expect` names {name!r}, which is no law of a {subject.kind}; {nearest(name, [w.name for w in own])}",
        )
        for name in subject.example.expect
        if name not in known
    ]  # fmt: skip


def record(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data."""
    return dataclasses.asdict(verdict)
