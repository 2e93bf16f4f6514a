"""Results as a self-contained HTML page: the matrix, what each law exercised, and each witness with its script."""

from __future__ import annotations

import datetime
import re
from typing import Any

from ..core.errors import require
from ..core.laws import BAD, TOLERANCES, Verdict
from .results import Results, versions
from .terminal import MARKS
from .words import command, number, pairs


def environment() -> Any:
    """The templates: these and those of the report. Raises MissingExtra where jinja2 is not installed."""
    jinja2: Any = require("jinja2", "report", "the page")
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader("mapsto", "check"), jinja2.PackageLoader("mapsto", "engine/report")]),
        autoescape=jinja2.select_autoescape(("html.j2",), default=True),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def html(results: Results) -> str:
    """The page."""
    shown = [_shown(v, i, results) for i, v in enumerate(results.verdicts)]
    by_place = {id(v): s for v, s in zip(results.verdicts, shown, strict=True)}
    witnesses = [[by_place[id(v)] for v in group] for group in results.groups(*BAD, "known failure", "expected failure")]
    for group in witnesses:
        for each in group:
            each["anchor"] = group[0]["anchor"]
    written = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    text: str = (
        environment()
        .get_template("page.html.j2")
        .render(
            results=results,
            summary=results.summary(),
            tiles=_tiles(results),
            kinds=_kinds(results, shown),
            witnesses=witnesses,
            marks={status: mark for status, (mark, _, _) in MARKS.items()},
            versions=versions(),
            written=written,
        )
    )
    return text


def _tiles(results: Results) -> list[dict[str, str]]:
    counts = results.counts
    tiles = [{"value": f"{counts['pass']:,}", "label": "passed", "css": "pass"}]
    tiles += [
        {"value": f"{counts[status]:,}", "label": status, "css": _css(status)}
        for status in MARKS
        if status != "pass" and counts[status]
    ]
    tiles += [
        {"value": f"{results.exercised:,}", "label": "comparisons", "css": ""},
        {"value": f"{results.controls:,}", "label": "controls differed", "css": ""},
    ]
    return tiles


def _kinds(results: Results, shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A matrix a kind: columns are laws in the catalogue's order."""
    order = {name: i for i, (name, _) in enumerate(results.laws)}
    found = []
    for kind, subjects in results.kinds().items():
        own = [v for v in shown if v["kind"] == kind]
        names = sorted({v["law"] for v in own}, key=lambda name: (order.get(name, len(order)), name))
        columns = [
            next({"name": n, "id": v["id"] or n, "statement": v["statement"]} for v in own if v["law"] == n) for n in names
        ]
        rows = []
        for subject in subjects:
            cells = {v["law"]: v for v in own if v["subject"] == subject}
            rows.append({"subject": subject, "cells": [cells.get(n) for n in names], "verdicts": list(cells.values())})
        found.append({"kind": kind, "columns": columns, "rows": rows})
    return found


def _shown(made: Verdict, place: int, results: Results) -> dict[str, Any]:
    law, witness = results.law(made), made.witness
    rows = []
    if witness is not None:
        measured = (
            f"{number(witness.measured)}, and {number(witness.allowed)} is allowed" if witness.measured is not None else ""
        )
        rows = [
            ("smallest case", pairs(witness.case, "=")),
            ("measured", measured),
            ("first", pairs(witness.first, " ")),
            ("likely cause", witness.cause or ""),
        ]
    if law is not None:
        rows += [
            ("tolerance", f"{law.tolerance}, {TOLERANCES[law.tolerance]}"),
            ("why it matters", law.why),
            ("to satisfy it", law.satisfy),
            ("it catches", "; ".join(law.catches)),
        ]
    return {
        "anchor": f"v{place}-" + re.sub(r"\W+", "-", f"{made.subject}-{made.law}").strip("-").lower(),
        "subject": made.subject, "kind": made.kind, "law": made.law, "id": made.id, "status": made.status,
        "css": _css(made.status), "linked": made.status in (*BAD, "known failure", "expected failure"), "reason": made.reason,
        "seconds": made.seconds, "statement": law.statement if law is not None else "",
        "rows": [(name, text) for name, text in rows if text],
        "script": witness.script if witness is not None else None,
        "command": command(made) if made.id else None, "output": made.output.strip(),
        "counts": {k: n for k, n in made.counts.items() if n}, "controls": made.controls,
    }  # fmt: skip


def _css(status: str) -> str:
    return status.replace(" ", "-")
