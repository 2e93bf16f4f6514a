"""The report: one self-contained HTML page made from a run folder alone, or from several to compare them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.durable import replace
from ...core.errors import SpecError, require
from ...core.shown import shown
from ..folder import RunFolder
from ..record import RunRecord, read_run
from .compare import compared
from .view import viewed

REPORT = "report.html"


def write_report(run: str | Path | Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the report of a run folder, finished or not, or one page that compares several; where it is.

    out: default `report.html` in the (first) run folder, `comparison.html` for several. Needs neither the framework nor
    the recipe. Raises SpecError where a folder holds no run, MissingExtra where jinja2 or matplotlib is not installed.
    """
    jinja2 = require("jinja2", "report", "the report")
    require("matplotlib", "report", "the report")
    folders = [Path(run)] if isinstance(run, (str, Path)) else [Path(r) for r in run]
    if not folders:
        raise SpecError("a report needs at least one run folder")
    records = [read_run(RunFolder(folder)) for folder in folders]
    template, view, default = (
        ("page.html.j2", viewed(records[0]), REPORT)
        if len(records) == 1
        else ("comparison.html.j2", compared(records), "comparison.html")
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = shown(environment.get_template(template).render(view | _scripts()))  # names may hold marks that turn a line round
    path = Path(out) if out is not None else folders[0] / default
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, text.encode("utf-8", errors="replace"))
    return path


def _scripts() -> dict[str, Any]:
    """The page's own scripts, and their digests, so that a browser runs no other that might have come in by a name."""
    from markupsafe import Markup

    here = Path(__file__).parent
    texts = [(here / name).read_text(encoding="utf-8").strip() for name in ("uplot/uPlot.iife.min.js", "live.js")]
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    allowed = Markup(" ".join(f"'sha256-{digest}'" for digest in digests))  # noqa: S704  # of these files
    return {"scripts": [Markup(text) for text in texts], "allowed": allowed}  # noqa: S704


__all__ = ["RunRecord", "read_run", "write_report"]
