"""A worker process: judges one law on one subject at a time, and is replaced when it is left in another state.

It reads requests as JSON lines and answers on a descriptor of its own; whatever a component prints goes elsewhere. With a
rank it is one of a group that judges a law together. A request says what to `do`: `judge`, `resolve`, `describe`, `laws`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ..core.errors import MapstoError
from ..core.law_wings import law_wings
from ..core.laws import Trial, Verdict, all_laws, find_law, verdict
from ..core.recipes import load_file
from ..processes import fresh
from ..processes.system import adopt_orphans, children, command_of, letter
from . import targets

HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Processes that Python itself keeps."""


def main(rank: int, world: int, store: str, memory: int, requests: int, answers: int) -> NoReturn:
    """In a fork: what it may do is limited to what a worker may, and it answers until it is asked no more.

    store: the file where the workers of a group meet; memory: bytes that it may allocate, 0: no limit.
    """
    try:
        adopt_orphans()
        faulthandler.register(signal.SIGUSR1, all_threads=False)  # a hang says where, when asked
        if memory:
            limit_memory(memory)
        if world == 1:
            fresh.keep()  # of nobody's code, which laws of artefacts ask for
        serve(requests, answers, rank, world, store)
    except BaseException as error:  # noqa: BLE001  # told by the exit code and on the worker's own stderr
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)
    os._exit(0)  # whatever a component left to be joined or run


def limit_memory(size: int) -> None:
    """Let this process allocate `size` bytes more than it has; beyond that an allocation fails, and says so."""
    import resource

    held = 0
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        held = 1024 * int(next(line for line in lines if line.startswith("VmData:")).split()[1])
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (held + size, hard))


def serve(requests: int, answers: int, rank: int, world: int, store: str) -> None:
    """Answer the checker's requests, a JSON line each, until the descriptor that they come from is closed."""
    own = os.getpid()
    if world > 1:
        for wing in law_wings():
            wing.join(rank, world, store)
    # what a component says may hold lone surrogates, which no file of a report could
    with os.fdopen(requests, encoding="utf-8") as received, os.fdopen(answers, "w", encoding="utf-8", errors="replace") as sent:
        answer(sent, {"ready": own})
        for line in received:
            request = json.loads(line)
            before = settings()
            made = HANDLERS[request["do"]](request, rank, world)
            if os.getpid() != own:
                os._exit(0)  # a component forked and came back twice: only the first may answer
            changed = [name for name, value in settings().items() if before.get(name) != value]
            answer(sent, {**made, "rank": rank, "changed": changed, "left": left()})


def answer(stream: Any, data: dict[str, Any]) -> None:
    """One JSON line, after everything that was printed before it."""
    for printed in (sys.stdout, sys.stderr):
        try:
            printed.flush()
        except (OSError, ValueError, AttributeError):  # a component may have closed or replaced it
            continue
    stream.write(json.dumps(data, default=str, ensure_ascii=False) + "\n")
    stream.flush()


# -- what is asked ---------------------------------------------------------------------------------------------------
def judge(request: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """The verdict of one law; a target that cannot be found or built is a verdict too."""
    started = time.perf_counter()
    made = Verdict(
        subject=request["label"], kind=request["kind"], law=request["law"], id=request["id"], priority=request["priority"],
        status="unknown", seed=request["seed"], reference=request["reference"], wing=request["wing"],
    )  # fmt: skip
    try:
        with quiet(request):
            subject = targets.find(request["reference"], request["kind"], request["wing"])
            subject, law = dataclasses.replace(subject, label=request["label"]), find_law(request["law"], subject.wing)
            seed_all(request["seed"])
            options = {name: request[name] for name in ("seed", "thorough", "record", "search")}
            made = verdict(Trial(subject, law, rank=rank, world=world, **options))
    except BaseException as error:  # noqa: BLE001  # the target's own doing, SystemExit and KeyboardInterrupt included
        made = dataclasses.replace(made, reason=f"the target cannot be used: {format_error(error)}")
    return {"verdict": dataclasses.asdict(dataclasses.replace(made, seconds=time.perf_counter() - started))}


def resolve(request: dict[str, Any], _rank: int, _world: int) -> dict[str, Any]:
    """The subjects that a target names, those that cannot be used as problems."""
    try:
        with quiet(request):
            found = targets.named(request["target"], request["subject_kind"], request["wing"])
    except BaseException as error:  # noqa: BLE001  # as above
        return {"subjects": [], "problems": [{"subject": request["target"], "kind": "", "reason": format_error(error)}]}
    return {
        "subjects": [
            {"kind": s.kind, "label": s.label, "reference": s.reference} for s in found if isinstance(s, targets.Named)
        ],
        "problems": [dataclasses.asdict(p) for p in found if isinstance(p, targets.Problem)],
    }


def describe(request: dict[str, Any], _rank: int, _world: int) -> dict[str, Any]:
    """The wing of a subject, what its author expects of laws, its files; a problem where it cannot be imported."""
    try:
        with quiet(request):
            subject = targets.find(request["reference"], request["kind"], request["wing"])
            return {"expect": dict(subject.example.expect), "wing": subject.wing, "files": targets.files_of(subject)}
    except BaseException as error:  # noqa: BLE001  # as above
        return {"problem": format_error(error)}


def laws(request: dict[str, Any], _rank: int, _world: int) -> dict[str, Any]:
    """Every neutral law and those of some wings as data, but for their checks."""
    try:
        found = all_laws(request["wings"])
    except BaseException as error:  # noqa: BLE001  # a plugin's laws may fail in any way
        return {"laws": [], "problem": format_error(error)}
    hidden = {"check", "driver"}
    return {
        "laws": [{f.name: getattr(w, f.name) for f in dataclasses.fields(w) if f.name not in hidden} for w in found.values()]
    }


HANDLERS = {"judge": judge, "resolve": resolve, "describe": describe, "laws": laws}


@contextmanager
def quiet(request: dict[str, Any]) -> Iterator[None]:
    """Within it recipe files and search paths of the asking process are there, and warnings are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.path.extend(path for path in request["path"] if path not in sys.path)
        for path in request["recipes"]:
            load_file(path)
        yield


def format_error(error: BaseException) -> str:
    """An exception in one line, with where it was raised in the target's own code."""
    if isinstance(error, SystemExit):
        return f"it raised SystemExit({error.code!r}) when it was imported or built"
    if isinstance(error, MapstoError):
        return str(error)[:1500]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "mapsto" not in Path(f.filename).parts[-4:-1]]
    own = next((f for f in reversed(frames) if not f.filename.startswith("<")), None)
    where = f" ({own.filename}:{own.lineno})" if own is not None else ""
    return f"{type(error).__name__}: {str(error)[:900]}{where}"


# -- the state that a component must leave as it was -----------------------------------------------------------------
def seed_all(seed: int) -> None:
    """Start the global random streams anew, so that no law depends on those before it."""
    random.seed(seed)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    for wing in law_wings():
        wing.seed(seed)


def settings() -> dict[str, Any]:
    """Global settings of the process and of the frameworks."""
    found: dict[str, Any] = {"working folder": folder(), "recursion limit": sys.getrecursionlimit()}
    for wing in law_wings():
        found |= wing.globals()
    return found


def folder() -> str:
    """The working folder, which a component may have removed."""
    try:
        return os.getcwd()
    except OSError:
        return "(gone)"


def left() -> list[str]:
    """The commands of processes that were started here and still run; empty where the system cannot tell."""
    return [command_of(pid)[:80] for pid in {*children(os.getpid())} - fresh.kept() if not _is_over(pid)]


def _is_over(pid: int) -> bool:
    """Whether a child is a zombie, or one of Python's own helpers."""
    try:
        return letter(pid) in ("Z", "") or any(helper in Path(f"/proc/{pid}/cmdline").read_bytes() for helper in HELPERS)
    except OSError:
        return True
