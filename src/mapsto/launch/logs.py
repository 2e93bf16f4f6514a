"""The files of a launch, in RUN/logs: what each rank said, how each failed, and what the launcher did about it.

rank-3.log          standard output and error of rank 3, one attempt after another
errors/ flight/ stacks/   of the latest attempt (see `record`); those of the attempts before lie in attempts/1, attempts/2, ...
launch.jsonl        one line an event: started, failed, again, regrouped, ended
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any

EVENTS = "launch.jsonl"
LEFT = ("errors", "flight", "stacks")


class Logs:
    """The logs of a run, of the ranks that this launcher starts."""

    def __init__(self, run: Path) -> None:
        self.path = run / "logs"

    def log(self, rank: int) -> Path:
        """Where a rank's words are kept."""
        return self.path / f"rank-{rank}.log"

    def stack(self, rank: int) -> Path:
        """Where a rank writes its stacks when asked."""
        return self.path / "stacks" / f"rank-{rank}.txt"

    def open(self, rank: int, attempt: int) -> int:
        """A descriptor to append a rank's words to; it begins with a line that says which attempt this is."""
        self.path.mkdir(parents=True, exist_ok=True)
        opened = os.open(self.log(rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.write(opened, f"--- attempt {attempt}, {datetime.now():%Y-%m-%d %H:%M:%S}\n".encode())
        return opened

    def begin(self, ranks: range) -> None:
        """Put away what the ranks of the attempt before left behind."""
        before = [int(path.name) for path in (self.path / "attempts").glob("*") if path.name.isdigit()]
        number = max(before, default=0) + 1
        for folder in LEFT:
            for rank in ranks:
                for file in (self.path / folder).glob(f"rank-{rank}.*"):
                    kept = self.path / "attempts" / str(number) / folder
                    kept.mkdir(parents=True, exist_ok=True)
                    with contextlib.suppress(OSError):
                        shutil.move(file, kept / file.name)

    def read(self, folder: str, rank: int) -> Any:
        """What a rank left in errors or flight, or None."""
        try:
            return json.loads((self.path / folder / f"rank-{rank}.json").read_text())
        except (OSError, ValueError):
            return None

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The lines of launch.jsonl (of these events, if any are named); a torn one is left out."""
        found: list[dict[str, Any]] = []
        with contextlib.suppress(OSError):
            file = self.path / EVENTS
            for line in file.read_text().splitlines() if file.is_file() else ():  # a pipe would wait for a writer
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return [event for event in found if not names or event.get("event") in names]

    def note(self, event: str, **detail: Any) -> None:
        """One line of launch.jsonl; that it cannot be written ends no run."""
        with contextlib.suppress(OSError):
            self.path.mkdir(parents=True, exist_ok=True)
            name = self.path / EVENTS
            if name.exists() and not name.is_file():  # nor is there anybody who reads one
                return
            with open(name, "a") as file:
                file.write(json.dumps({"event": event, "time": time.time(), **detail}, default=str) + "\n")
