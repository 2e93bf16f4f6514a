"""What the command line prints on: results on stdout, everything said about them on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def write(text: str = "") -> None:
    """Print a result."""
    print(text)


def write_json(data: Any) -> None:
    """Print a result as JSON."""
    print(json.dumps(data, indent=1, default=str, ensure_ascii=False))


def heading(text: str) -> None:
    """Print a heading, bold on a terminal."""
    print(_styled(text, "1", sys.stdout))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Print rows in aligned columns: folded into the width of a terminal, whole where something else reads them."""
    if sys.stdout.isatty():
        _fold(heads, rows, indent)
        return
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    for row in [heads, *rows]:
        print((indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip())


def _fold(heads: Sequence[str], rows: Sequence[Sequence[str]], indent: str) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, head in enumerate(heads):
        shown.add_column(head, overflow="fold", no_wrap=i == 0)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(Padding(shown, (0, 0, 0, len(indent)), expand=False))


def note(text: str) -> None:
    """Say something on stderr."""
    print(text, file=sys.stderr)


def fail(text: str) -> None:
    """Say on stderr what went wrong."""
    print(_styled("error:", "1;31", sys.stderr), text, file=sys.stderr)


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

    return Steady(highlight=False, soft_wrap=True)
