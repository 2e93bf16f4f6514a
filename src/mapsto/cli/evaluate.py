"""Measure a run on one of its data sets: the loss and the task's metrics, each record counted once.

The weights are those of a checkpoint, or what middleware puts in their place for evaluation (such as averages)."""

from __future__ import annotations

import argparse

from . import trusting
from .console import note, table, write_json

EPILOG = """\
examples:
  mapsto evaluate runs/first                               the last checkpoint on data.test
  mapsto evaluate runs/first --data valid --checkpoint best
  mapsto evaluate runs/first --data valid data.valid.source.path=/new/valid.csv     which was moved since
  mapsto evaluate runs/first --json | jq .metrics.accuracy"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="where the same data lie now, and other settings")
    help_ = "which of the spec's data sets (default: test, or valid where there is none)"
    parser.add_argument("--data", metavar="NAME", help=help_)
    parser.add_argument("--data-changed", action="store_true", help="the data at another path need not be those of the run")
    parser.add_argument("--checkpoint", metavar="WHICH", default="last", help="last (default), best, or a step")
    parser.add_argument("--json", action="store_true", help="print JSON")
    trusting.arguments(parser)


def run(options: argparse.Namespace) -> int:
    from ..engine.run import Run

    trusting.admit(options, options.run)
    made = Run.resume(options.run, *options.overrides, checkpoint=options.checkpoint, data_changed=options.data_changed)
    data = options.data or made.measured or "test"
    reader = made.reader(data)  # a wrong name is told before the model is built
    if data != (options.data or "test"):
        note(f"the spec has no data.test: data.{data} is evaluated")
    found = made.evaluate(data)
    step = made.program.position
    if options.json:
        write_json({"run": str(made.folder.path), "data": data, "step": step, "metrics": found})
    else:
        note(f"{made.folder.path}, step {step}, data.{data} ({reader.records} records)")
        table(("metric", "value"), [(name, f"{value:.6g}") for name, value in found.items()])
    return 0
