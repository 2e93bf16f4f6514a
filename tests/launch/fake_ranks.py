"""Ranks that need no framework: what each does is said in its words; what it saw goes into a file."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from mapsto.core.errors import SpecError
from mapsto.launch.record import recorded


def main(words: list[str]) -> int:
    """words: a folder, then `rank[@attempt]=deed` ...; a rank without a deed ends well, after `all=deed` if that is said."""
    folder, rank, attempt = Path(words[0]), int(os.environ["RANK"]), os.environ["MAPSTO_ATTEMPT"]
    folder.mkdir(parents=True, exist_ok=True)
    seen = {name: os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "CUDA_VISIBLE_DEVICES")}
    with open(folder / f"seen-{rank}.jsonl", "a") as file:
        file.write(json.dumps({**seen, "attempt": int(attempt), "pid": os.getpid(), "words": words}) + "\n")
    deeds = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    deed = deeds.get(f"{rank}@{attempt}", deeds.get(str(rank), deeds.get("all", "")))
    with recorded(lambda: folder, lambda: 7):
        return act(deed, folder, rank)


def act(deed: str, folder: Path, rank: int) -> int:
    """Do what the deed says."""
    what, _, more = deed.partition(":")
    if what == "raise":
        print("about to fail")
        raise {"own": ValueError, "system": RuntimeError, "explained": SpecError, "memory": MemoryError}[more]("planted")
    if what == "echo":  # as the collectives of the others end when one goes away
        time.sleep(float(more or 0.3))
        raise RuntimeError("gloo: Read error [127.0.0.1]:1: Connection reset by peer")
    if what == "exit":
        print("last words", file=sys.stderr)
        return int(more)
    if what == "kill":
        os.kill(os.getpid(), int(more or signal.SIGKILL))
    if what == "checkpoint":  # as a run that comes somewhere before it fails
        (folder / "checkpoints" / f"step-{more}").mkdir(parents=True, exist_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait":  # until it is asked to stop, and says how often it was
        stay(folder, rank, float(more or 30))
    if what == "loop":
        until = time.monotonic() + 60
        while time.monotonic() < until:
            pass
    if what == "deaf":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        (folder / f"ready-{rank}").touch()
        time.sleep(60)
    return 0


def stay(folder: Path, rank: int, seconds: float) -> None:
    """Wait for a signal, write down which, and end as a run does that was asked to stop."""
    got: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda n, _: got.append(n))
    (folder / f"ready-{rank}").touch()
    until = time.monotonic() + seconds
    while not got and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.3)  # a second one would come by now
    (folder / f"got-{rank}.json").write_text(json.dumps(got))
    if got:
        raise SystemExit(128 + got[0])
