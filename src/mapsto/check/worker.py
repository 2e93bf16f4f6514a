"""A worker process: judges one law on one subject at a time, and is replaced when it is left in another state.

It reads requests as JSON lines and answers on a descriptor of its own; whatever a component prints goes elsewhere. With a
rank it is one of a group that judges a law together. A request says what to `do`: `judge`, `resolve`, `describe`, `laws`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.errors import MapstoError
from ..core.laws import Trial, Verdict, all_laws, find_law, verdict
from ..core.recipes import load_file
from . import targets
from .wings import law_wings

HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Processes that Python itself keeps."""


def serve(requests: int, answers: int, rank: int, world: int, store: str) -> None:
    """Answer requests until their descriptor closes."""
    wings, own = law_wings(), os.getpid()
    if world > 1:
        for wing in wings:
            wing.join(rank, world, store)
    # what a component says may hold lone surrogates, which no file of a report could
    with os.fdopen(requests, encoding="utf-8") as asked, os.fdopen(answers, "w", encoding="utf-8", errors="replace") as told:
        answer(told, {"ready": own})
        for line in asked:
            request = json.loads(line)
            before = settings(wings)
            made = HANDLERS[request["do"]](request, rank, world)
            if os.getpid() != own:
                os._exit(0)  # a component forked and came back twice: only the first may answer
            changed = [name for name, value in settings(wings).items() if before.get(name) != value]
            answer(told, {**made, "rank": rank, "changed": changed, "left": [name_of(pid) for pid in children()]})


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
        status="unknown", seed=request["seed"], reference=request["reference"],
    )  # fmt: skip
    try:
        with quiet(request):
            subject = dataclasses.replace(targets.find(request["reference"], request["kind"]), label=request["label"])
            law = find_law(request["law"])
            seed_all(request["seed"])
            made = verdict(Trial(subject, law, seed=request["seed"], thorough=request["thorough"], rank=rank, world=world))
    except BaseException as error:  # noqa: BLE001  # the target's own doing, SystemExit and KeyboardInterrupt included
        made = dataclasses.replace(made, reason=f"the target cannot be used: {told(error)}")
    return {"verdict": dataclasses.asdict(dataclasses.replace(made, seconds=time.perf_counter() - started))}


def resolve(request: dict[str, Any], _rank: int, _world: int) -> dict[str, Any]:
    """The subjects that a target names, those that cannot be used as problems."""
    try:
        with quiet(request):
            found = targets.named(request["target"], request["subject_kind"])
    except BaseException as error:  # noqa: BLE001  # as above
        return {"subjects": [], "problems": [{"subject": request["target"], "kind": "", "reason": told(error)}]}
    return {
        "subjects": [
            {"kind": s.kind, "label": s.label, "reference": s.reference} for s in found if isinstance(s, targets.Named)
        ],
        "problems": [dataclasses.asdict(p) for p in found if isinstance(p, targets.Problem)],
    }


def describe(request: dict[str, Any], _rank: int, _world: int) -> dict[str, Any]:
    """What the author of a subject expects of laws; a problem where it cannot be imported."""
    try:
        with quiet(request):
            return {"expect": dict(targets.find(request["reference"], request["kind"]).example.expect)}
    except BaseException as error:  # noqa: BLE001  # as above
        return {"problem": told(error)}


def laws(_request: dict[str, Any], _rank: int, _world: int) -> dict[str, Any]:
    """Every law as data, but for its check."""
    try:
        found = all_laws()
    except BaseException as error:  # noqa: BLE001  # a plugin's laws may fail in any way
        return {"laws": [], "problem": told(error)}
    hidden = {"check"}
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


def told(error: BaseException) -> str:
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


def settings(wings: list[Any]) -> dict[str, Any]:
    """Global settings of the process and of the frameworks."""
    found: dict[str, Any] = {"working folder": folder(), "recursion limit": sys.getrecursionlimit()}
    for wing in wings:
        found |= wing.globals()
    return found


def folder() -> str:
    """The working folder, which a component may have removed."""
    try:
        return os.getcwd()
    except OSError:
        return "(gone)"


def children(pid: int | None = None, *, zombies: bool = False) -> list[int]:
    """Processes that a process (this one) started and that still run, by /proc; empty where there is none."""
    own = pid or os.getpid()
    return [child for child in _children(own) if zombies or not _is_over(child)]


def _children(pid: int) -> Iterator[int]:
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (task / "children").read_text().split())
    except OSError:
        return


def _is_over(pid: int) -> bool:
    """Whether a child is a zombie, or one of Python's own helpers."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" or any(helper in Path(f"/proc/{pid}/cmdline").read_bytes() for helper in HELPERS)
    except (OSError, IndexError):
        return True


def name_of(pid: int) -> str:
    """The command of a process, as people know it. One that has only just been started has none for a moment."""
    for _ in range(50):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            break
        if said := " ".join(words).strip()[:80]:
            return said
        time.sleep(0.01)
    return str(pid)
