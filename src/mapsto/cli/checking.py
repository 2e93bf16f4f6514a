"""What `check` shows and writes while it goes on, and how it is stopped without losing what was judged."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..check import terminal
from ..check.results import Results, json_end, json_lawless, json_verdict
from ..core.json_text import write_json
from ..core.laws import BAD, Law, Subject, Verdict
from ..engine.signals import interruptible
from .console import screen

if TYPE_CHECKING:
    from rich.console import Console

STDOUT = Path("-")
"""The file of `--json -`."""


class Stop:
    """Within `taken()` a signal to stop raises KeyboardInterrupt, but not in the midst of what is done within `held()`."""

    number = 0
    """The signal that came; 0: none."""
    _held = False

    def taken(self) -> AbstractContextManager[None]:
        """Where signals are taken."""
        return interruptible(self._ask)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is done whole or not at all, such as a line of a file."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.number:
            raise KeyboardInterrupt

    def _ask(self, name: str) -> None:
        self.number = signal.Signals[name].value
        if not self._held:
            raise KeyboardInterrupt


class Paper:
    """Where the report is printed: on stdout, or on stderr where stdout takes JSON lines."""

    def __init__(self, *, stderr: bool) -> None:
        self._stream = sys.stderr if stderr else sys.stdout
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors="replace")  # what a component says may be in any script
        self._console = screen(stderr=stderr, soft_wrap=True, width=None if self._stream.isatty() else 100)
        self._width, self._ascii = min(self._console.width, 160), "utf" not in (self._stream.encoding or "").lower()
        self._listed = False

    @contextmanager
    def following(self, owed: Mapping[tuple[str, str], Sequence[Law]]) -> Iterator[Callable[[Verdict], None]]:
        """Within it what it gives shows each verdict, above a bar with what is left where a terminal looks on."""
        stream = terminal.Stream(owed, width=self._width, ascii_only=self._ascii)
        self._listed = stream.lists
        with _bar(sum(map(len, owed.values()))) as (above, advance):
            console = above if above is not None and self._stream.isatty() else self._console

            def show(verdict: Verdict) -> None:
                for line in stream.lines(verdict):
                    console.print(line, soft_wrap=True)
                advance(verdict)

            yield show

    def report(self, results: Results) -> None:
        """The whole, but for what was shown of it before."""
        for line in terminal.lines(results, width=self._width, ascii_only=self._ascii, listed=self._listed):
            self._console.print(line)


@contextmanager
def _bar(total: int) -> Iterator[tuple[Console | None, Callable[[Verdict], None]]]:
    """A progress bar on stderr, where a terminal looks on: a console that prints above it, and what moves it on."""
    if not sys.stderr.isatty():
        yield None, lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=screen(stderr=True), transient=True) as bar:
        task, bad = bar.add_task("", total=total), 0

        def advance(verdict: Verdict) -> None:
            nonlocal bad
            bad += verdict.status in BAD
            bar.update(task, advance=1, description=f"{bad} bad" if bad else "")

        yield bar.console, advance


class Lines:
    """JSON lines of a file (or stdout) that can be read while they are written: a record a verdict as it is judged."""

    def __init__(self, path: Path) -> None:
        """Begin the file. Raises OSError."""
        own = path != STDOUT
        self._file: IO[str] = open(path, "w", encoding="utf-8", errors="backslashreplace") if own else sys.stdout  # noqa: SIM115
        self._own = own

    def verdict(self, made: Verdict, law: Law | None) -> None:
        """Write a verdict."""
        self._write(json_verdict(made, law))

    def end(self, results: Results, code: int) -> None:
        """Write what owes no law and the last record, and close."""
        lawless: list[Subject] = results.lawless
        for subject in lawless:
            self._write(json_lawless(subject, results.seed))
        self._write(json_end(results, code))
        self.close()

    def close(self) -> None:
        """Close the file; what was written stays."""
        if self._own:
            with contextlib.suppress(OSError):
                self._file.close()

    def _write(self, data: dict[str, Any]) -> None:
        self._file.write(write_json(data) + "\n")
        self._file.flush()
