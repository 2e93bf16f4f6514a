"""Write a run's predictions to a file: one record each, in the order of the data.

The data are one of the spec's data sets, or a file that is read in its place: by the same source where that has a path,
else by the source for the file's ending, and through the same transforms. The output takes its name only when it is whole."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import DataError, nearest
from ..core.parts import build
from ..core.values import Part
from .console import note, write
from .predictions import writing

if TYPE_CHECKING:
    from ..engine.run import Run

EPILOG = """\
examples:
  mapsto predict runs/first --output predictions.jsonl                 data.test, the last checkpoint
  mapsto predict runs/first --data valid --checkpoint best --output predictions.csv
  mapsto predict runs/first --input new.parquet --output predictions.parquet

A line of .jsonl is an object a record; a .csv has a column a number (probability.0, probability.1, ...); a .parquet file
has a list column where a field is an array."""

SOURCES = {
    ".arrow": "arrow",
    ".csv": "csv",
    ".feather": "arrow",
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".parquet": "parquet",
    ".tsv": "csv",
    ".txt": "text_lines",
}
"""File ending -> the source that reads it."""

SERVES_TRAINING = ("shuffle", "order", "bucket_by", "window", "drop_last", "limit")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="where the same data lie now, and other settings")
    parser.add_argument("--output", metavar="FILE", required=True, help="what to write: .jsonl, .csv or .parquet")
    parser.add_argument("--data", metavar="NAME", default="test", help="which of the spec's data sets (default: test)")
    parser.add_argument("--input", metavar="FILE", help="read this file instead, as --data is read")
    parser.add_argument("--data-changed", action="store_true", help="the data at another path need not be those of the run")
    parser.add_argument("--checkpoint", metavar="WHICH", default="last", help="last (default), best, or a step")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(options: argparse.Namespace) -> int:
    from ..engine.run import Run

    output = Path(options.output)
    with writing(output) as rows:
        made = Run.resume(options.run, *options.overrides, checkpoint=options.checkpoint, data_changed=options.data_changed)
        reader = made.reader(options.data) if options.input is None else reader_of(made, options.data, Path(options.input))
        count = 0
        for batch in _shown(made.predict(options.data if options.input is None else reader), reader, options.quiet):
            count += rows(batch)
    note(f"{count} records, step {made.program.position} of {made.folder.path}")
    write(str(output))
    return 0


def reader_of(run: Run, data: str, file: Path) -> Any:
    """The reader that the spec names `data`, over a file in place of its source, each record once and in order.

    Raises DataError where the file's ending names no source.
    """
    if data not in run.spec.data:
        raise DataError(f"data.{data}: the spec names no such reader; {nearest(data, run.spec.data)}")
    if not file.is_file():
        raise DataError(f"--input: there is no file {file}")
    part = run.spec.data[data]
    if not isinstance(part, Part) or "source" not in part.args:
        raise DataError(f"data.{data} is not made of a source, so no file can take its place; name another with --data")
    drop = SERVES_TRAINING if part.name == "batches" else ()
    kept = {name: value for name, value in part.args.items() if name not in drop}
    read = Part(part.use, {**kept, "source": _source(part.args["source"], file)})
    return build(read, "reader", path=f"data.{data}", offers={"seed": run.spec.seed})


def _source(before: Any, file: Path) -> Any:
    """The same source with another path, or the one that reads files of this ending."""
    if isinstance(before, Part) and "path" in before.args:
        return Part(before.use, {**before.args, "path": str(file)})
    if file.suffix == ".npz":
        import numpy as np

        with np.load(file, allow_pickle=False) as arrays:
            return Part("arrays", dict(arrays))
    if file.suffix not in SOURCES:
        ending = repr(file.suffix) if file.suffix else "a file without an ending"
        raise DataError(f"--input: no source reads {ending}; {nearest(file.suffix, [*SOURCES, '.npz'])}")
    return Part(SOURCES[file.suffix], {"path": str(file)})


def _shown(batches: Iterator[dict[str, Any]], reader: Any, quiet: bool) -> Iterator[dict[str, Any]]:
    """The batches, with a bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    screen = Console(stderr=True)
    if quiet or not screen.is_terminal:
        return batches
    shown = track(batches, "predicting", total=reader.batches_per_epoch, console=screen, transient=True)
    return iter(shown)
