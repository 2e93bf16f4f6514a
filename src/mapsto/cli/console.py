"""What the command line prints on: results on stdout, everything said about them on stderr.

All that is printed goes through here, and control characters in it are shown as escapes: names and messages come from specs,
run folders and data that anybody may have written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from ..core import json_text
from ..core.shown import shown, shown_in_line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult


def write(text: str = "") -> None:
    """Print a result on standard output."""
    print(shown(text))


def write_json(data: Any) -> None:
    """Print a result as strict JSON: a number that is not finite is the string `NaN`, `Infinity` or `-Infinity`."""
    print(json_text.write_json(data, indent=1, ensure_ascii=False))


def heading(text: str) -> None:
    """Print a heading, bold on a terminal."""
    print(_styled(shown_in_line(text), "1", sys.stdout))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Print rows in aligned columns: folded into the width of a terminal, whole where something else reads them."""
    rows = [[shown_in_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _fold(heads, rows, indent)
        return
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    for row in [heads, *rows]:
        print((indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip())


def _fold(heads: Sequence[str], rows: Sequence[Sequence[str]], indent: str) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, head in enumerate(heads):
        shown.add_column(head, overflow="fold", no_wrap=i == 0)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    screen().print(Padding(shown, (0, 0, 0, len(indent)), expand=False))


def note(text: str) -> None:
    """Say something on stderr."""
    print(shown(text), file=sys.stderr)


def fail(text: str) -> None:
    """Say on stderr what went wrong."""
    print(_styled("error:", "1;31", sys.stderr), shown(text), file=sys.stderr)


def _styled(text: str, style: str, stream: IO[str]) -> str:
    return f"\033[{style}m{text}\033[0m" if stream.isatty() and "NO_COLOR" not in os.environ else text


def forget_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not complain about it while it ends."""
    with contextlib.suppress(OSError, ValueError):  # a stdout without a descriptor has nothing to flush to one
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Console:
    """A console for what is shown while something runs: where its reader goes away, the work goes on."""
    from rich.console import Console

    class Steady(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True  # rich would end the process here
            forget_stdout()

    return _shows(Steady(highlight=False, soft_wrap=True))


def screen(**options: Any) -> Console:
    """A console of rich with these options. Printing raises BrokenPipeError where its reader went away."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # what is handled right now; rich would end the process

    return _shows(Plain(highlight=False, **options))


def _shows(made: Console) -> Console:
    """The console, which spells out control characters in all that is printed on it but those that move its own cursor."""
    from rich.console import RenderHook
    from rich.segment import Segment

    class Shown:
        def __init__(self, inner: ConsoleRenderable) -> None:
            self.inner = inner

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for piece in console.render(self.inner, options):
                yield piece if piece.control else Segment(shown(piece.text), piece.style)

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [Shown(each) for each in renderables]

    made.push_render_hook(Hook())
    return made


# -- what Python itself prints -----------------------------------------------------------------------------------------
class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def own_last_words() -> None:
    """Log records that nobody handles, and exceptions that nobody catches, are printed here too."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Formatter())
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _uncaught


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    note("".join(traceback.format_exception(kind, error, trace)).rstrip())
