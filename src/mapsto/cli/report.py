"""Write the report page of a run (one self-contained HTML file in its folder), or one that compares several runs."""

from __future__ import annotations

import argparse
import webbrowser

from .console import note, write

EPILOG = """\
examples:
  mapsto report runs/first          write it anew and name it
  mapsto report runs/first --open   and open it in a browser
  mapsto report runs/first runs/second --output both.html"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run, also of one that is still going")
    parser.add_argument("--output", metavar="FILE", help="where to write it (default: report.html in the run's folder)")
    parser.add_argument("--open", action="store_true", help="open it in a browser")


def run(options: argparse.Namespace) -> int:
    from ..engine.report import write_report

    path = write_report(options.runs if len(options.runs) > 1 else options.runs[0], options.output)
    write(str(path))
    if options.open and not webbrowser.open(path.resolve().as_uri()):
        note("there is no browser to open it with")
    return 0
