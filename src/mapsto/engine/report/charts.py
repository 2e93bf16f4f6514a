"""Charts as inline SVG whose colours are the page's, so that they follow light, dark and print."""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..figures import number
from ..record import Points

INK, FAINT = "#010101", "#020202"
"""Stand-ins for the page's colours, replaced by CSS variables once matplotlib has drawn."""
SERIES = 8
POINTS = 400
"""Points a line is drawn with at most: longer series are drawn as means, with the range around them."""
LIVE_POINTS = 2000
"""The same of what a browser draws, which can be looked at more closely."""


Curve = tuple[str, Sequence[tuple[float, float]]]
"""A label and its points."""


@dataclass(frozen=True)
class Series:
    """A line: its label, its points (values that are not finite are gaps) and its colour, a number of the page's palette."""

    label: str
    points: Points
    color: int = 0


def colour(index: int) -> str:
    """The stand-in for the palette's colour `index`."""
    return f"#0a000{index % SERIES}"


def lines(series: Sequence[Series], label: str, *, mark: tuple[int, float] | None = None, zero: bool = False) -> str:
    """Values over steps. mark: a point to ring; zero: begin the axis at zero; the axis is logarithmic where values span 50x."""
    finite = [v for s in series for v in thinned(s.points)[1] if math.isfinite(v)]
    log = not zero and _spans(series)

    def draw(axes: Any) -> None:
        for one in series:
            _line(axes, one)
        if mark is not None:
            axes.plot([mark[0]], [mark[1]], "o", ms=7, mfc="none", mec=INK, mew=1.2)
        if log:
            axes.set_yscale("log")
        elif zero:
            axes.set_ylim(0, 1.08 * max(finite) if finite and max(finite) > 0 else None)

    return _svg(draw, label, steps=True, log=log)


def stacked(steps: Sequence[float], parts: Sequence[tuple[int, Sequence[float]]], label: str) -> str:
    """Parts of a whole over steps, each `(colour, values)`."""

    def draw(axes: Any) -> None:
        if len(steps) == 1:
            bottom = 0.0
            for index, values in parts:
                axes.bar([f"{steps[0]:.0f}"], values, bottom=bottom, color=colour(index), width=0.4)
                bottom += values[0]
            axes.set_xlim(-1.5, 1.5)
            return
        axes.stackplot(steps, *[v for _, v in parts], colors=[colour(i) for i, _ in parts], linewidth=0)
        axes.set_ylim(bottom=0)
        axes.set_xlim(steps[0], steps[-1])

    return _svg(draw, label, steps=len(steps) > 1)


def scatter(points: Sequence[tuple[float, float]], label: str) -> str:
    """Points, with the diagonal where both axes are of one scale."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]

    def draw(axes: Any) -> None:
        axes.plot(xs, ys, "o", ms=3, mfc=colour(0), mec="none", alpha=0.5)
        low, high = max(min(xs), min(ys)), min(max(xs), max(ys))
        if high - low > 0.3 * max(max(xs) - min(xs), max(ys) - min(ys)):
            axes.plot([low, high], [low, high], color=INK, lw=0.8, ls=(0, (4, 3)), alpha=0.6)

    return _svg(draw, label, size=(4.6, 3.4))


def curves(lines: Sequence[Curve], label: str, axes_names: tuple[str, str], *, diagonal: bool = False) -> str:
    """Lines over any axis, such as ROC or calibration curves; diagonal: what chance or a perfect calibration would give."""

    def draw(axes: Any) -> None:
        for i, (_, points) in enumerate(lines):
            axes.plot([p[0] for p in points], [p[1] for p in points], color=colour(i), lw=1.6)
        if diagonal:
            low, high = axes.get_xlim()
            axes.plot([low, high], [low, high], color=INK, lw=0.8, ls=(0, (4, 3)), alpha=0.6)
        axes.set_xlabel(axes_names[0], fontsize=7.5)
        axes.set_ylabel(axes_names[1], fontsize=7.5)

    return _svg(draw, label, size=(4.6, 3.2))


def _line(axes: Any, one: Series) -> None:
    steps, means, lows, highs = thinned(one.points)
    paint = colour(one.color)
    if lows:
        axes.fill_between(steps, lows, highs, color=paint, alpha=0.18, linewidth=0)
    marker = "o" if len(one.points) <= 25 else ""
    axes.plot(steps, means, color=paint, lw=1.6, marker=marker, ms=3.2, solid_joinstyle="round")


def data(series: Sequence[Series], *, mark: tuple[int, float] | None = None, zero: bool = False) -> str:
    """The same lines as JSON, from which a browser draws them anew (`live.js`); values that are not finite are null."""
    found = []
    for one in series:
        steps, means, _, _ = thinned(one.points, LIVE_POINTS)
        values = [None if math.isnan(v) else float(f"{v:.7g}") for v in means]
        found.append({"label": one.label, "color": one.color % SERIES, "x": [round(s) for s in steps], "y": values})
    return json.dumps({"series": found, "mark": mark, "zero": zero, "log": not zero and _spans(series)}, allow_nan=False)


def _spans(series: Sequence[Series]) -> bool:
    """Whether values span so much that only a logarithmic axis shows them."""
    finite = [v for s in series for v in thinned(s.points)[1] if math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 50


def thinned(points: Points, most: int = POINTS) -> tuple[list[float], list[float], list[float], list[float]]:
    """(steps, means, lows, highs) over at most so many stretches; lows and highs are empty where nothing was averaged."""
    clean = [(float(s), v if math.isfinite(v) else math.nan) for s, v in points]
    if len(clean) <= most:
        return [s for s, _ in clean], [v for _, v in clean], [], []
    rows = []
    for i in range(most):
        part = clean[i * len(clean) // most : (i + 1) * len(clean) // most]
        values = [v for _, v in part if v == v] or [math.nan]
        rows.append((part[len(part) // 2][0], sum(values) / len(values), min(values), max(values)))
    steps, means, lows, highs = (list(column) for column in zip(*rows, strict=True))
    return steps, means, lows, highs


def _svg(
    draw: Callable[[Any], None], label: str, *, steps: bool = False, log: bool = False, size: tuple[float, float] = (4.6, 2.5)
) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": label,
        "font.size": 8.5,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.useoffset": False,
        "path.simplify_threshold": 0.3,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a font without some sign: the browser has its own
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y", color=FAINT, lw=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", length=0, pad=5)
        draw(axes)
        _ticks(axes, steps, log)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _themed(buffer.getvalue(), label)


def _ticks(axes: Any, steps: bool, log: bool) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    nice = [1, 2, 2.5, 5, 10]
    if steps:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1, steps=nice))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.margins(x=0.02)
        axes.set_xlabel("step", fontsize=7.5, labelpad=1)
    low, high = axes.get_ylim()
    if log:
        subs = (1.0, 2.0, 5.0) if math.log10(high / low) < 3 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=nice))
    if 1e4 <= max(abs(low), abs(high)) < 1e15:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _themed(svg: str, label: str) -> str:
    """The bare element with the page's colours and font, and ids that are its own among many on one page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    frame = rf'<svg viewBox="\1" role="img" aria-label="{_attribute(label)}">'
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', frame, svg, count=1)
    svg = svg.replace(INK, "var(--ink)").replace(FAINT, "var(--faint)")
    svg = re.sub(r"#0a000(\d)", r"var(--s\1)", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    own = re.sub(r"\W", "-", label)
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{own}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{own}-", svg)
    return svg.replace("xlink:href", "href").strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
