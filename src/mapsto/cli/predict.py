"""Write a run's predictions to a file: one record each, in the order of the data.

The data are one of the spec's data sets, or a file that is read in its place: by the same source where that has a path,
else by the source for the file's ending, and through the same transforms. The output takes its name only when it is whole."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import DataError, SpecError, nearest
from ..core.parts import build, resolve, stated
from ..core.registry import registry
from ..core.values import Part
from ..data.arrays import npz_arrays
from ..data.compressed import inner_suffix
from . import trusting
from .beside import Beside
from .console import note, screen, write
from .ensemble import averaged, members, same_data, same_labels
from .predictions import writing
from .unlabelled import Without, folder_of_classes, labels_of, leave_out_labels, without_labels

if TYPE_CHECKING:
    from ..engine.run import Run

EPILOG = """\
examples:
  mapsto predict runs/first --output predictions.jsonl                 data.test, the last checkpoint
  mapsto predict runs/first --data valid --checkpoint best --output predictions.csv
  mapsto predict runs/first --input new.parquet --output predictions.parquet
  mapsto predict runs/first --input new.tsv --id name --keep text --output predictions.csv
  mapsto predict runs/first --input photos/ --keep file --output predictions.jsonl
  mapsto predict runs/cv --input new.csv --output predictions.csv      the mean of the runs that train --folds made

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
"""File ending, without that of a compression -> the source that reads it."""
TABLES = ("arrow", "csv", "json_lines", "parquet")
READ_FILES = frozenset(SOURCES.values())
"""Sources that a file of another ending is not for; any other source of a path takes what it is given."""

SERVES_TRAINING = ("shuffle", "order", "bucket_by", "window", "drop_last", "limit")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="where the same data lie now, and other settings")
    parser.add_argument("--output", metavar="FILE", required=True, help="what to write: .jsonl, .csv or .parquet")
    parser.add_argument("--data", metavar="NAME", default="test", help="which of the spec's data sets (default: test)")
    parser.add_argument("--input", metavar="FILE", help="read this file or folder instead, as --data is read; labels may lack")
    parser.add_argument(
        "--source", metavar="NAME", help="read --input by this source (default: that of --data, or by its ending)"
    )
    parser.add_argument("--id", metavar="FIELD", help="the field that tells a record (default: its number, from 0)")
    parser.add_argument("--keep", metavar="FIELD,...", help="fields of the source to write beside the predictions")
    parser.add_argument("--data-changed", action="store_true", help="the data at another path need not be those of the run")
    parser.add_argument("--checkpoint", metavar="WHICH", default="last", help="last (default), best, or a step")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    trusting.arguments(parser)


def run(options: argparse.Namespace) -> int:
    from ..engine.run import Run

    folders = members(Path(options.run))
    for folder in folders:
        trusting.admit(options, str(folder))
    output = Path(options.output)
    with writing(output) as rows, contextlib.ExitStack() as stack:
        changed = {"checkpoint": options.checkpoint, "data_changed": options.data_changed}
        runs = [Run.resume(folder, *options.overrides, **changed) for folder in folders]
        if options.input is None:
            same_data(runs, options.data)
            readers = [run.reader(options.data) for run in runs]
        else:
            readers = [reader_of(run, options.data, Path(options.input), options.source, stack) for run in runs]
        same_labels(readers)
        made, reader = runs[0], readers[0]
        asked = [options.data if options.input is None else each for each in readers]
        found = [run.predict(data) for run, data in zip(runs, asked, strict=True)]
        keep = [n.strip() for n in (options.keep or "").split(",") if n.strip()]
        beside = Beside(reader, keep, options.id, class_names(made, options.data, reader, own=options.input is None))
        count = broken = 0
        for batch in _shown(averaged(found) if len(found) > 1 else found[0], reader, options.quiet):
            broken += int(_not_finite(batch).sum())
            count += rows(beside(batch, getattr(made.program, "task", None)))
    if broken:
        note(f"{broken} of {count} records have predictions that are not finite: what was read of them may lack values")
    whose = f"the mean of {len(runs)} runs in {options.run}" if len(runs) > 1 else str(made.folder.path)
    note(f"{count} records, step {made.program.position} of {whose}")
    write(str(output))
    return 0


def class_names(run: Run, data: str, reader: Any, own: bool) -> Any:
    """The classes behind label numbers, where a source tells them; own: whether the reader is the run's, not over --input.

    The sub-folders of another folder are no names of what was learned: those that were trained on are, or none where these
    lie no more where they did.
    """
    told = getattr(getattr(reader, "source", None), "classes", None)
    part = run.spec.data.get("train", run.spec.data[data])
    source = part.args.get("source") if isinstance(part, Part) else None
    if own or told is None or not isinstance(source, Part):
        return told if own else None
    listed = Part(source.use, {n: v for n, v in source.args.items() if n != "on_error"})  # which decodes every file
    with contextlib.suppress(DataError, SpecError, OSError):
        made = build(listed, "source", path="data.train.source", injected={"seed": run.spec.seed}, wing=run.spec.wing)
        return getattr(made, "classes", None)
    return None


def _not_finite(batch: Mapping[str, Any]) -> Any:
    """Whether each record's predictions hold what is not finite, [records]."""
    found = np.zeros(len(next(iter(batch.values()))), bool)
    for values in batch.values():
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            found |= ~np.isfinite(values).reshape(len(values), -1).all(1)
    return found


def reader_of(run: Run, data: str, file: Path, source: str | None = None, stack: contextlib.ExitStack | None = None) -> Any:
    """The reader that the spec names `data`, over a file or folder in place of its source, each record once and in order.

    source: the name of the source that reads it, where that is to be another; stack: ends what must live as long as the
    reader does. Where the file has no labels, what reads them is left out. Raises DataError where no source reads it.
    """
    if data not in run.spec.data:
        raise DataError(f"data.{data}: the spec names no such reader; {nearest(data, run.spec.data)}")
    if not file.exists():
        raise DataError(f"--input: there is no file {file}")
    part = run.spec.data[data]
    if not isinstance(part, Part) or "source" not in part.args:
        raise DataError(f"data.{data} is not made of a source, so no file can take its place; name another with --data")
    run.spec.load_imports()
    labels, flat = labels_of(run.spec.task, part), False
    said = part.args["source"]
    if file.is_dir() and (reads := source or (said.name if isinstance(said, Part) else None)) in READ_FILES:
        raise DataError(f"--input: {file} is a folder, and {reads} reads files")
    given = file
    if file.is_dir():
        file, flat = (stack or contextlib.ExitStack()).enter_context(folder_of_classes(file))
    said, path = _source(part.args["source"], file, source), f"data.{data}"
    told, injected = _trained_on(run, data), {"seed": run.spec.seed}
    make = functools.partial(build, kind="source", path=f"{path}.source", injected=injected, wing=run.spec.wing)
    made = without_labels(said, labels, lambda part: as_trained(part, make, told))
    drop = SERVES_TRAINING if part.name == "batches" else ()
    kept = {name: value for name, value in part.args.items() if name not in drop}
    read = Part(part.use, {**kept, "source": Without(made, labels, given) if flat else made})
    reader = build(read, "reader", path=path, injected=injected, wing=run.spec.wing)
    run.fit_transforms(reader, data)
    leave_out_labels(reader, labels)
    return reader


NUMBERS = ("bool", "int", "uint", "float", "bfloat", "complex")


def _trained_on(run: Run, data: str) -> Mapping[str, str]:
    """Field -> type and shape of a record, as the last checkpoint tells of the data set, or else of what was trained on."""
    paths = run.checkpoints.paths()
    known = run.checkpoints.manifest(paths[-1]).get("data", {}) if paths else {}
    return dict(known.get(data, known.get("train", {})).get("fields", {}))


def as_trained(part: Part, make: Callable[[Part], Any], told: Mapping[str, str]) -> Any:
    """A source, built: numbers of a file that says no types are read in those of training (a column of whole numbers may have
    had fractions there). Raises DataError for text where there were numbers."""
    from ..engine.fingerprint import described

    made = make(part)
    first = made[np.zeros(1, np.int64)]
    now = {name: described(first[name]) for name in told if name in first}
    types = {name: was.removesuffix(" []") for name, was in told.items() if was.endswith(" []") and now.get(name, was) != was}
    if types and "types" in stated(resolve(part, "source", "source")[0], registry.kind("source")).named:
        said = part.args.get("types")
        return make(Part(part.use, {**part.args, "types": {**types, **(said if isinstance(said, Mapping) else {})}}))
    for name, found in now.items():
        if told[name].startswith(NUMBERS) and not found.startswith((*NUMBERS, "list of ndarray")):
            raise DataError(f"--input: field {name!r} is {found}, and {told[name]} in training")
    return made


def _source(before: Any, file: Path, name: str | None = None) -> Part:
    """The same source with another path, or the one that is named or reads files of this ending."""
    if isinstance(before, Part) and before.name in ("split", "fold") and isinstance(before.args.get("source"), Part):
        return _source(before.args["source"], file, name)  # a file of its own is no part of another
    suffix = inner_suffix(file)
    by_suffix = "image_folder" if file.is_dir() else SOURCES.get(suffix)
    part = before if isinstance(before, Part) else None
    takes = () if part is None else stated(resolve(part, "source", "source")[0], registry.kind("source")).named
    same = name is None and part is not None and ("path" in part.args or "path" in takes)
    if file.suffix == ".npz" and name is None and not (same and part is not None and part.name not in READ_FILES):
        return Part("arrays", npz_arrays(file))
    if part is not None and same and (part.name not in READ_FILES or by_suffix in (None, part.name) or file.is_dir()):
        other = inner_suffix(Path(str(part.args.get("path", "")))) != suffix
        dropped = ("delimiter",) if other and part.name == "csv" else ("classes",) if file.is_dir() else ()
        return Part(part.use, {**{n: v for n, v in part.args.items() if n not in dropped}, "path": str(file)})
    if by_suffix is None and name is None:
        ending = repr(file.suffix) if file.suffix else "a file without an ending"
        raise DataError(f"--input: no source reads {ending}; {nearest(file.suffix, [*SOURCES, '.npz'])}")
    chosen = name or str(by_suffix)
    table = part is not None and part.name in TABLES and chosen in TABLES
    more = {n: part.args[n] for n in ("fields", "types", "missing") if n in part.args} if part is not None and table else {}
    return Part(chosen, {**more, "path": str(file)})


def _shown(batches: Iterator[dict[str, Any]], reader: Any, quiet: bool) -> Iterator[dict[str, Any]]:
    """The batches, with a bar on stderr where that is a terminal."""
    from rich.progress import track

    here = screen(stderr=True)
    if quiet or not here.is_terminal:
        return batches
    shown = track(batches, "predicting", total=reader.batches_per_epoch, console=here, transient=True)
    return iter(shown)
