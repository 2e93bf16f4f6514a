"""Progress: a run on the terminal, live where there is one and as plain lines elsewhere."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...core.doors import typed
from ...core.registry import decorator
from ...core.shown import shown, shown_in_line
from ..events import Event
from ..figures import count, duration, number, share, short_time
from ..initial import lines_of

observer = decorator("observer")
REDRAW = 0.1
"""Seconds between two drawings of the bar, at least: a log may come every millisecond."""
Line = tuple[str, str]
"""(style, text)."""


@observer("progress")
class Progress:
    """Shows a run: its start, a bar with the last metrics, evaluations, checkpoints, its end and how to go on.

    live: redraw in place (None: only where standard output is a terminal, and neither TERM=dumb nor CI is set); otherwise
    one line a log. console: a `rich.console.Console` to write to (default: standard output).
    """

    @typed
    def __init__(self, *, live: bool | None = None, console: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console: Console = console if console is not None else Console(highlight=False, soft_wrap=True)
        self.live = is_interactive(self.console) if live is None else live
        self.clock = clock
        self._began, self._first = clock(), 0
        self._display: Live | None = None
        self._last: Mapping[str, float] = {}
        self._valid = ""
        self._drawn = -REDRAW

    def __call__(self, event: Event) -> None:
        for style, text in self._lines(event):
            self.console.print(Text(shown(text), style=style))
        if event.name == "start" and self.live and event.step < event.run.total_steps:
            # Redrawn at events alone: without a thread, reader processes may be forked at any time.
            self._display = Live(console=self.console, auto_refresh=False, transient=True)
            self._display.start()
        if self._display is not None and (event.name != "log" or self.clock() - self._drawn >= REDRAW):
            self._display.update(self._bar(event), refresh=True)
            self._drawn = self.clock()

    def close(self) -> None:
        """Remove the progress bar from the terminal."""
        if self._display is not None:
            self._display.stop()
        self._display = None

    # -- lines -------------------------------------------------------------------------------------------------------
    def _lines(self, event: Event) -> list[Line]:
        if event.name == "start":
            self._began, self._first = self.clock(), event.step
            return started(event)
        if event.name == "log":
            self._last = event.metrics
            return [] if self._display is not None else [("", f"{self._place(event)}  {self._news(event)}")]
        if event.name == "evaluate":
            return [("bold" if self._display is not None else "", self._evaluated(event))]
        if event.name == "checkpoint":
            return [("dim", f"{_at(event)}  checkpoint {_near(event.detail.get('path'))}{_best(event)}")]
        if event.name == "end":
            self.close()
            return self._ended(event)
        return []

    def _place(self, event: Event) -> str:
        return f"{_at(event)} {share(event.step / max(event.run.total_steps, 1)):>5}  epoch {event.epoch:.2f}"

    def _news(self, event: Event) -> str:
        """The metrics of a log, the speed, the share of time spent waiting for data, and what is left."""
        return "  ".join([*_formatted(self._last, "train/"), *_speed(self._last), f"left {duration(self.left(event))}"])

    def left(self, event: Event) -> float:
        """Seconds to the end at this session's mean pace, evaluations and checkpoints included; NaN before a step was taken."""
        taken = event.step - self._first
        return (self.clock() - self._began) / taken * (event.run.total_steps - event.step) if taken > 0 else math.nan

    def _evaluated(self, event: Event) -> str:
        sets = list(dict.fromkeys(name.partition("/")[0] for name in event.metrics if not name.startswith("time/")))
        told = [f"{name}: {'  '.join(_formatted(event.metrics, f'{name}/'))}" for name in sets]
        took = f"  ({short_time(event.metrics['time/evaluate'])})" if "time/evaluate" in event.metrics else ""
        self._valid = "  ".join(told)
        return f"{_at(event)}  {self._valid}{took}"

    def _ended(self, event: Event) -> list[Line]:
        detail, reason = event.detail, str(event.detail.get("reason", "finished"))
        style = {"finished": "bold green", "stopped": "bold yellow", "interrupted": "bold yellow"}.get(reason, "bold red")
        because = f": {detail['why']}" if detail.get("why") else ""
        lines = [(style, f"{reason} at step {event.step:,} after {duration(self.clock() - self._began)}{because}")]
        if self._valid:
            lines.append(("", f"  {self._valid}"))
        lines += [("", f"  {name:<5} {detail[name]}") for name in ("best", "last") if detail.get(name)]
        lines += [("yellow", f"  observer {name} was detached: {why}") for name, why in detail.get("detached", {}).items()]
        if reason != "finished" and detail.get("go_on"):
            lines.append(("bold", f"  go on with: {detail['go_on']}"))
        elif reason in ("failed", "aborted") and detail.get("last"):
            lines.append(("bold", f"  go on with: mapsto train --resume {event.run.folder}"))
        return lines

    # -- the bar -----------------------------------------------------------------------------------------------------
    def _bar(self, event: Event) -> Group:
        total = max(event.run.total_steps, 1)
        row = Table.grid(padding=(0, 2))
        row.add_column(no_wrap=True)
        row.add_row(
            Text(shown_in_line(event.run.spec.name), style="bold"),
            ProgressBar(total=total, completed=event.step, width=max(10, min(40, self.console.width - 60))),
            f"{event.step:,}/{total:,}",
            f"epoch {event.epoch:.2f}",
            f"{duration(self.clock() - self._began)}, left {duration(self.left(event))}",
        )
        news = "  ".join([*_formatted(self._last, "train/"), *_speed(self._last)])
        return Group(row, Text(shown_in_line(news), style="cyan", overflow="ellipsis", no_wrap=True))


def is_interactive(console: Console) -> bool:
    """Whether lines can be redrawn in place: a terminal, neither TERM=dumb nor CI."""
    return console.is_terminal and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")


def started(event: Event) -> list[Line]:
    """What is run, on what, in which plan; and on a resume what was restored from where."""
    run, summary = event.run, event.run.summary
    size = summary.get("parameters")
    trainable = summary.get("trainable", size)
    part = "" if trainable == size else f", {count(trainable)} of them trained"
    sizes = "" if size is None else f", {count(size)} parameters{part}"
    kinds = f", {', '.join(summary['dtypes'])}" if summary.get("dtypes") else ""
    plan = " > ".join(summary.get("middleware") or ()) or "none"
    schedule = f" with {summary['schedule']}" if summary.get("schedule") else ""
    lines = [
        ("bold", f"{run.spec.name} in {run.folder}"),
        ("", f"  model       {summary.get('model', '?')}{sizes} on {summary.get('device', '?')}{kinds}"),
        ("", f"  optimizer   {summary.get('optimizer', '?')}{schedule}"),
        ("", f"  middleware  {plan}"),
        *(("", f"  {'mesh' if i == 0 else '':<12}{note}") for i, note in enumerate(_first(summary.get("mesh") or ()))),
        ("", f"  length      {run.total_steps:,} steps, {run.steps_per_epoch:,} an epoch"),
    ]
    if found := event.detail.get("resumed"):
        restored = ", ".join(found.get("restored", ()))
        lines.append(("bold", f"  resumed     step {found['step']:,} from {found['path']}: {restored}"))
        lines += [("yellow", f"              {note}") for note in found.get("notes", ())]
    if found := event.detail.get("init"):
        lines += [("", f"  {'starts from' if i == 0 else '':<12}{line}") for i, line in enumerate(lines_of(found))]
    return lines


def _first(notes: Sequence[str], most: int = 8) -> list[str]:
    """The notes, or where there are many the first and the number of the others."""
    return [*notes[:most], *([f"... and {len(notes) - most} more"] if len(notes) > most else [])]


def _at(event: Event) -> str:
    width = len(f"{event.run.total_steps:,}")
    return f"step {event.step:>{width},}/{event.run.total_steps:,}"


def _formatted(metrics: Mapping[str, float], prefix: str) -> list[str]:
    names = [n for n in metrics if n.startswith(prefix) and not n.startswith(f"{prefix}time/")]
    return [f"{name.removeprefix(prefix)} {number(metrics[name])}" for name in names]


def _speed(metrics: Mapping[str, float]) -> list[str]:
    found = []
    if "throughput/records" in metrics:
        found.append(f"{count(metrics['throughput/records'])} records/s")
    if metrics.get("time/step"):
        found.append(f"{short_time(metrics['time/step'])}/step")
        if "time/data" in metrics:
            found.append(f"data {share(metrics['time/data'] / metrics['time/step'])}")
    return found


def _near(path: Any) -> str:
    return Path(str(path)).name if path else ""


def _best(event: Event) -> str:
    return "  (best so far)" if event.detail.get("best") else ""
