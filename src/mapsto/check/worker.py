"""A worker process: judges one law on one subject at a time, and is replaced when it is left in another state.

It reads requests as JSON lines on standard input and answers on the descriptor it was given; whatever a component prints
goes elsewhere. With a rank it is one of a group that judges a law together.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import sys
import time
import warnings
from typing import Any

from ..core.laws import Trial, Verdict, find_law, verdict
from ..core.recipes import load_file
from .wings import law_wings


def main() -> None:
    """Serve until standard input closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, required=True)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--store", default="")
    options = parser.parse_args()
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(options.answers, "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a component that reads standard input gets nothing, not our requests
    wings = law_wings()
    if options.world > 1:
        for wing in wings:
            wing.join(options.rank, options.world, options.store)
    _answer(answers, {"ready": os.getpid()})
    for line in requests:
        before = _globals(wings)
        started = time.perf_counter()
        made = handle(json.loads(line), options.rank, options.world, started)
        changed = [name for name, value in _globals(wings).items() if before.get(name) != value]
        _answer(answers, {"verdict": dataclasses.asdict(made), "changed": changed, "children": _children()})


def handle(request: dict[str, Any], rank: int, world: int, started: float) -> Verdict:
    """The verdict a request asks for; a target that cannot be found or built is a verdict too."""
    from .targets import find

    law = find_law(request["law"])
    blank = Verdict(
        subject=request["label"], kind=request["kind"], law=law.name, id=law.id, priority=law.priority, status="unknown",
        seed=request["seed"],
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for path in request["recipes"]:
                load_file(path)
            subject = dataclasses.replace(find(request["reference"], request["kind"]), label=request["label"])
            random.seed(request["seed"])
            trial = Trial(subject, law, seed=request["seed"], thorough=request["thorough"], rank=rank, world=world)
            made = verdict(trial)
    except SystemExit as left:
        made = dataclasses.replace(blank, reason=f"the target raised SystemExit({left.code!r}) when it was imported or built")
    except Exception as error:  # noqa: BLE001  # the target's own doing
        made = dataclasses.replace(blank, reason=f"the target cannot be used: {type(error).__name__}: {str(error)[:600]}")
    return dataclasses.replace(made, seconds=time.perf_counter() - started)


def _answer(stream: Any, data: dict[str, Any]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    stream.write(json.dumps(data, default=str) + "\n")
    stream.flush()


def _globals(wings: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"working folder": os.getcwd(), "recursion limit": sys.getrecursionlimit()}
    for wing in wings:
        found |= wing.globals()
    return found


def _children() -> int:
    try:
        return len(open(f"/proc/self/task/{os.getpid()}/children").read().split())
    except OSError:
        return 0


if __name__ == "__main__":
    main()
