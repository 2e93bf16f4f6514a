"""The page of one run: all that its template shows, as plain values."""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from ..diagnosis import diagnose
from ..figures import count, duration, number, share, short_time, size
from ..observers.profile import PARTS, time_splits
from ..record import RunRecord
from . import charts
from .cards import data_cards, layer_rows
from .panels import laid_out
from .processes import PER_PARAMETER, memory_chart, parameters, rank_charts

COLORS = {"train": 0, "valid": 1, "test": 2}
TIME_COLORS = {"data": 1, "loss": 0, "grad": 4, "update": 2, "other": 7}
TIME_LABELS = {"data": "waiting for data", "loss": "loss", "grad": "grad (backward)", "update": "update", "other": "other"}
APART = ("time/", "throughput/", "memory/", "train/time/", "train/lr", *PER_PARAMETER)
"""Metrics with these beginnings have their own charts."""
LEAST = 1e-9
"""Seconds of a step that are more than rounding."""


def viewed(record: RunRecord) -> dict[str, Any]:
    """What `page.html.j2` shows of a run."""
    diagnosis = diagnose(record)
    return {
        "name": record.name,
        "folder": str(record.folder),
        "status": record.status,
        "why": record.why,
        "facts": facts(record),
        "tiles": tiles(record),
        "warnings": warned(record),
        "findings": diagnosis.findings,
        "healthy": diagnosis.healthy,
        "charts": [chart for chart in (*metric_charts(record), rate_chart(record)) if chart],
        "speed": speed_charts(record),
        "ranks": rank_charts(record, line_chart),
        "parameters": parameters(record),
        "panels": laid_out(record.panels),
        "data": data_cards(record),
        "layers": layer_rows(record),
        "checkpoints": checkpoints(record),
        "metric": record.tracked[0],
        "middleware": middleware(record),
        "sessions": sessions(record),
        "commands": commands(record),
        "spec": record.spec_text,
        "environment": environment(record.environment),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "number": number,
        "share": share,
        "size": size,
    }


# -- the head ----------------------------------------------------------------------------------------------------------
def facts(record: RunRecord) -> list[str]:
    """What was run, in a few words."""
    summary = record.summary
    found = [str(summary["model"])] if summary.get("model") else []
    if isinstance(summary.get("parameters"), int):
        found.append(f"{count(summary['parameters'])} parameters")
    if isinstance(summary.get("trainable"), int) and summary["trainable"] != summary.get("parameters"):
        found.append(f"{count(summary['trainable'])} trained")
    optimizer, schedule = (_named(record, slot) for slot in ("optimizer", "schedule"))
    found += [f"{optimizer} with {schedule}" if schedule else optimizer] if optimizer else []
    return found + [str(summary[key]) for key in ("device",) if summary.get(key)]


def _named(record: RunRecord, slot: str) -> str:
    """A part by the name that the spec gives it, or else by its class."""
    said = record.spec.get(slot)
    use = said.get("use") if isinstance(said, Mapping) else said
    return str(use or record.summary.get(slot) or "").rpartition(":")[2]


def tiles(record: RunRecord) -> list[dict[str, str]]:
    """The figures that a reader looks for first."""
    metric, _ = record.tracked
    found = []
    if record.best is not None:
        step, value = record.best
        found.append({"label": f"best {metric}", "value": number(value), "note": f"step {step:,}", "main": "yes"})
    for name in final_names(record):
        step, value = record.series[name][-1]
        found.append({"label": name, "value": number(value), "note": f"step {step:,}", "main": ""})
    found.append(
        {"label": "steps", "value": f"{record.steps:,}", "note": f"{number(round(record.epochs, 2))} epochs", "main": ""}
    )
    if record.seconds > 0:
        found.append({"label": "duration", "value": duration(record.seconds), "note": "all sessions", "main": ""})
    speeds = [v for _, v in record.series.get("throughput/records", []) if math.isfinite(v)]
    if speeds:
        found.append(
            {"label": "throughput", "value": count(statistics.median(speeds)), "note": "records/s, median", "main": ""}
        )
    return found


def final_names(record: RunRecord) -> list[str]:
    """The metrics whose last value is told on top: of the most final evaluation that there is, then the training loss."""
    names = [n for n in record.series if not n.startswith(APART)]
    sets = [s for s in dict.fromkeys(n.partition("/")[0] for n in names if "/" in n) if s != "train"]
    shown = [s for s in sets if s.startswith("test")] or sets
    chosen = [n for s in shown for n in names if n.startswith(f"{s}/")][:8]
    return [*chosen, *(n for n in ("train/loss",) if n in names)]


def warned(record: RunRecord) -> list[str]:
    """What a reader must know besides the findings: what was left out of the data, and what a session that went on did not
    find as it was."""
    found: list[str] = []
    for event in record.events:
        detail = (event.get("detail") or {}) if event.get("name") == "start" else {}
        found += [note for note in detail.get("data", ()) if note not in found]
        resumed = detail.get("resumed")
        found += (
            [f"at the resume from step {resumed['step']:,}: {note}" for note in resumed.get("notes", ())] if resumed else []
        )
    return found


# -- charts ------------------------------------------------------------------------------------------------------------
def chart(title: str, svg: str, legend: Sequence[tuple[int, str]] = (), note: str = "") -> dict[str, Any]:
    """A figure of the page."""
    return {"title": title, "svg": Markup(svg), "legend": list(legend), "note": note, "data": None}  # noqa: S704  # drawn by charts


def line_chart(
    title: str,
    series: Sequence[charts.Series],
    *,
    note: str = "",
    mark: tuple[int, float] | None = None,
    zero: bool = False,
    legend: bool = True,
) -> dict[str, Any]:
    """A figure of lines over steps, with the data from which a browser draws it to be worked with."""
    keys = [(s.color % charts.SERIES, s.label) for s in series] if legend else []
    svg = charts.lines(series, title, mark=mark, zero=zero)
    return {**chart(title, svg, keys, note), "data": charts.data(series, mark=mark, zero=zero)}


def metric_charts(record: RunRecord) -> list[dict[str, Any]]:
    """One chart a metric, its sets (train, valid, test) together; the loss first, what is only of training last."""
    groups: dict[str, list[str]] = {}
    for name, points in record.series.items():
        if not name.startswith(APART) and any(math.isfinite(v) for _, v in points):
            groups.setdefault(name.partition("/")[2] or name, []).append(name)
    evaluated = {group for group, names in groups.items() if any(not n.startswith("train/") for n in names)}
    order = sorted(groups, key=lambda g: (g != "loss", g not in evaluated))
    return [metric_chart(record, group, groups[group]) for group in order]


def metric_chart(record: RunRecord, group: str, names: Sequence[str]) -> dict[str, Any]:
    """The chart of one metric."""
    series = [
        charts.Series(name, record.series[name], COLORS.get(name.partition("/")[0], 3 + i)) for i, name in enumerate(names)
    ]
    mark = record.best if record.tracked[0] in names else None
    note = f"ring: best {record.tracked[0]}, {number(mark[1])} at step {mark[0]:,}" if mark else ""
    return line_chart(group, series, note=note, mark=mark)


def rate_chart(record: RunRecord) -> dict[str, Any] | None:
    """The learning rate of each parameter group."""
    found = [
        charts.Series(name.removeprefix("train/"), points, i)
        for i, (name, points) in enumerate((n, p) for n, p in record.series.items() if n.startswith("train/lr"))
    ]
    if not found:
        return None
    return line_chart("learning rate", found, legend=len(found) > 1)


def speed_charts(record: RunRecord) -> dict[str, Any]:
    """Throughput and where the time of a step went."""
    found: dict[str, Any] = {"charts": [], "split": [], "between": []}
    if points := record.series.get("throughput/records"):
        one, note = [charts.Series("records/s", points, 2)], "records a second, evaluations and checkpoints apart"
        found["charts"].append(line_chart("throughput", one, note=note, zero=True, legend=False))
    splits = list(time_splits((e["step"], e.get("metrics", {})) for e in record.events if e.get("name") == "log"))
    if splits:
        shown = [p for p in PARTS if any(s[p] > LEAST for _, s in splits)]
        drawn = {p: charts.thinned([(step, s[p] * 1e3) for step, s in splits]) for p in shown}
        parts = [(TIME_COLORS[p], drawn[p][1]) for p in shown]
        legend = [(TIME_COLORS[p], TIME_LABELS[p]) for p in shown]
        svg = charts.stacked(drawn[shown[0]][0], parts, "time of a step")
        found["charts"].append(chart("time of a step", svg, legend, "milliseconds a step"))
        means = {p: statistics.fmean(s[p] for _, s in splits) for p in shown}
        whole = sum(means.values()) or 1.0
        found["split"] = [
            {"label": TIME_LABELS[p], "color": TIME_COLORS[p], "time": short_time(v), "share": v / whole}
            for p, v in means.items()
        ]
    if memory := memory_chart(record, line_chart):
        found["charts"].append(memory)
    for name in ("evaluate", "checkpoint"):
        if took := [v for _, v in record.series.get(f"time/{name}", []) if math.isfinite(v)]:
            found["between"].append(f"{name}: {len(took)} times, {short_time(statistics.fmean(took))} each")
    return found


# -- the rest ----------------------------------------------------------------------------------------------------------
def checkpoints(record: RunRecord) -> list[dict[str, Any]]:
    """Those that are kept, newest first, with the tracked metric where it was measured at their step; the best is marked."""
    measured = dict(record.series.get(record.tracked[0], []))
    best = _best(record)
    return [
        {
            **found,
            "metric": number(measured[found["step"]]) if found["step"] in measured else "",
            "is_best": found["step"] == best,
        }
        for found in reversed(record.checkpoints)
    ]


def _best(record: RunRecord) -> int | None:
    """The step of the best checkpoint that is kept, as the newest readable one tells it."""
    readable = [c for c in record.checkpoints if not c["error"]]
    kept = {c["step"] for c in record.checkpoints}
    return next((step for step in readable[-1]["best"] if step in kept), None) if readable else None


def middleware(record: RunRecord) -> list[dict[str, str]]:
    """The plan, outermost first, each with the options that the spec states."""
    stated: dict[str, str] = {}
    listed = record.spec.get("middleware") or ()
    for part in listed if isinstance(listed, (list, tuple)) else ():
        use = part.get("use") if isinstance(part, Mapping) else part
        options = {k: v for k, v in part.items() if k != "use"} if isinstance(part, Mapping) else {}
        stated[str(use)] = ", ".join(f"{k}={_short(v)}" for k, v in options.items())
    return [{"name": str(name), "options": stated.get(str(name), "")} for name in record.summary.get("middleware") or ()]


def sessions(record: RunRecord) -> list[dict[str, str]]:
    """When training was begun and gone on with."""
    found = []
    for event in record.events:
        if event.get("name") == "start":
            resumed = (event.get("detail") or {}).get("resumed")
            when = datetime.fromtimestamp(event["time"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if "time" in event else ""
            found.append({"when": when, "what": f"went on from {resumed['path']}" if resumed else "began"})
    return found


def commands(record: RunRecord) -> list[tuple[str, str]]:
    """How to go on with the run, evaluate it and make this page again: those that can work with what the folder holds."""
    folder = shlex.quote(str(record.folder))
    page = ("this page", f"mapsto report {folder}")
    from_file = record.environment.get("resumable_from_folder", True)
    readable = [c for c in record.checkpoints if not c["error"]]
    if not record.checkpoints:
        return [*([("begin it again", f"mapsto train SPEC --run {folder} --continue")] if from_file else []), page]
    if not readable:
        return [page]
    if not from_file:
        return [("go on", f"Run(spec, {str(record.folder)!r}).fit(resume=True)"), page]
    newest, start, which = readable[-1], folder, ""
    if newest is not record.checkpoints[-1]:  # the last one is damaged
        start, which = shlex.quote(str(record.folder / "checkpoints" / newest["name"])), f" --checkpoint {newest['step']}"
    elif _best(record) is not None:
        which = " --checkpoint best"
    more = "" if record.status not in ("finished", "stopped") else " steps=..." if record.spec.get("steps") else " epochs=..."
    found = [("go on", f"mapsto train --resume {start}{more}")]
    data = record.spec.get("data")
    if isinstance(data, Mapping) and set(data) - {"train"}:
        found.append(("evaluate", f"mapsto evaluate {folder}{which}"))
    return [*found, page]


def environment(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What besides the spec decided the numbers, as rows."""
    rows: list[tuple[str, str]] = []
    for key, value in found.items():
        if key in ("summary", "earlier"):
            continue
        if isinstance(value, Mapping):
            rows += [(f"{key} · {k}" if key != "versions" else str(k), _short(v)) for k, v in value.items()]
        elif key == "argv" and isinstance(value, list):
            rows.append(("command", " ".join(str(v) for v in value)))
        elif value is not None:
            rows.append((key, _short(value)))
    return rows


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 200 else text[:197] + "…"
