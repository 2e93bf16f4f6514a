"""`mapsto train SPEC --folds K`: a run for each fold of the spec's data, and what they have in common."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.durable import replace
from ..core.errors import MapstoError, SpecError
from ..core.json_text import write_json
from ..core.load_spec import load_spec
from ..core.spec import Spec
from ..core.values import Part
from .console import note, table, write

FILE = "folds.json"
MAPSTO = (sys.executable, "-m", "mapsto")


def train(options: argparse.Namespace) -> int:
    """Train the folds one after another, each in a process of its own; those that are done are not trained again.

    Raises SpecError where the spec's data have no fold to be numbered, or the folder holds folds of another number.
    """
    from ..engine.folder import RunFolder, default_folder
    from ..engine.record import read_run

    count: int = options.folds
    spec = load_spec(options.words[0]).override(*options.words[1:])
    places = list(numbered(spec))
    if not places:
        raise SpecError(
            "--folds numbers the `fold` sources of a spec's data, and it has none: data.train.source is "
            "{use: fold, part: rest, fold: 1, source: ...}, and data.valid.source the same with part: held_out"
        )
    folder = Path(options.run) if options.run is not None else default_folder(f"{spec.name}-folds")
    if folder.exists() and not options.go_on and any(folder.iterdir()):
        raise SpecError(f"{folder} is not empty: --continue goes on with the folds that are there, --run names another folder")
    if (folder / f"fold-{count + 1}").exists():
        raise SpecError(f"{folder} holds more folds than {count}: --run names another folder")
    runs = [folder / f"fold-{number}" for number in range(1, count + 1)]
    for number, run in enumerate(runs, 1):
        if not options.quiet:
            note(f"fold {number} of {count}: {run}")
        words = [f"{place}.{name}={value}" for place in places for name, value in (("fold", number), ("of", count))]
        said = [*MAPSTO, "train", *_without(options.said), *words, "--run", str(run), "--continue"]
        if code := _ran(said):
            note(f"fold {number} of {count} ended with {code}. Go on with: the same command and --run {folder} --continue")
            return code
        asked = "test" in spec.data and not any(n.startswith("test/") for n in read_run(RunFolder(run)).series)
        if asked and (code := _ran([*MAPSTO, "evaluate", str(run), "--data", "test", "--json"], quiet=True)):
            return code
    found = figures([read_run(RunFolder(run)).series for run in runs], [*spec.data])
    replace(folder / FILE, (write_json({"folds": count, "metrics": found}, indent=2) + "\n").encode())
    _tell(found, count)
    _page(runs, folder)
    return 0


def numbered(spec: Spec) -> Iterator[str]:
    """The places of a spec's `fold` sources: of folds within folds the one that is nearest to the data."""
    for name, reader in spec.data.items():
        yield from _within(reader, f"data.{name}")


def _within(value: Any, place: str) -> Iterator[str]:
    items: Mapping[str, Any] = value.args if isinstance(value, Part) else value if isinstance(value, Mapping) else {}
    inner = [found for name, one in items.items() for found in _within(one, f"{place}.{name}")]
    listed = value if isinstance(value, (list, tuple)) else ()
    inner += [found for i, one in enumerate(listed) for found in _within(one, f"{place}.{i}")]
    if not inner and isinstance(value, Part) and value.name == "fold":
        yield place
    yield from inner


def figures(series: Sequence[Mapping[str, Any]], data: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of each metric that every run evaluated: its last values, their mean and their deviation (n - 1)."""
    names = [name for name in series[0] if name.partition("/")[0] in set(data) - {"train"} and all(name in s for s in series)]
    found = {}
    for name in names:
        values = [one[name][-1][1] for one in series]
        found[name] = {"values": values, "mean": statistics.fmean(values), "deviation": statistics.stdev(values)}
    return found


def _tell(found: Mapping[str, Mapping[str, Any]], count: int) -> None:
    heads = ("metric", "mean", "deviation", *(f"fold {number}" for number in range(1, count + 1)))
    rows = [
        (name, f"{one['mean']:.6g}", f"{one['deviation']:.3g}", *(f"{value:.6g}" for value in one["values"]))
        for name, one in found.items()
    ]
    table(heads, rows)


def _page(runs: Sequence[Path], folder: Path) -> None:
    from ..engine.report import write_report

    try:
        write(f"report: {write_report(list(runs), folder / 'comparison.html')}")
    except MapstoError as error:
        note(f"the report could not be written: {error}")


def _ran(words: Sequence[str], *, quiet: bool = False) -> int:
    """The exit code of a command; an interruption reaches it too, and is waited for."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL if quiet else None)  # noqa: S603  # our own command
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _without(said: Sequence[str]) -> list[str]:
    """The words of the command without what is said of each fold anew."""
    kept, skip = [], False
    for word in said:
        if skip or word in ("--folds", "--run"):
            skip = not skip
        elif word != "--continue" and not word.startswith(("--folds=", "--run=")):
            kept.append(word)
    return kept
