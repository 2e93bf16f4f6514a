"""Train a spec, or go on with a run.

SPEC is a recipe (recipe.py, or recipe.py:function), package.module:function, a YAML file, or a run folder (whose spec is
then run anew). Settings are changed by path=value: optimizer.lr=1e-3, epochs=3, middleware+=ema."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..core.errors import MapstoError
from ..core.spec import load_spec
from ..core.values import Part
from .console import console, note, write

if TYPE_CHECKING:
    from ..engine.run import Result, Run

EPILOG = """\
examples:
  mapsto train recipes/digits.py                              into runs/NAME-TIME
  mapsto train recipes/digits.py optimizer.lr=1e-3 epochs=3   with settings changed
  mapsto train recipes/digits.py --run runs/first             into a folder of your choice
  mapsto train --resume runs/first                            go on where it stopped, bitwise the same on CPU
  mapsto train --resume runs/first epochs=40                  train it for longer
  mapsto train --resume runs/first --checkpoint 1200          go on from an earlier checkpoint

Ctrl-C (or SIGTERM) ends the run after its step, saved; a second one ends it at once.
A resumed run keeps its trajectory: of its settings, epochs or steps, log_every, evaluate_every, checkpoint and observers
may change."""

SIGTERM = 143


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "mapsto train SPEC [path=value ...] [--run FOLDER] [--quiet]\n"
        "       mapsto train --resume RUN [path=value ...] [--checkpoint STEP] [--quiet]"
    )
    parser.add_argument("words", nargs="*", metavar="SPEC path=value", help="what to train, and changes to it")
    parser.add_argument("--run", metavar="FOLDER", help="the run folder to make (default: runs/NAME-TIME)")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    parser.add_argument("--checkpoint", metavar="STEP", help="the checkpoint to go on from: last (default), best, or a step")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the report's place and how to go on")


def run(options: argparse.Namespace) -> int:
    from ..engine.run import Run

    if options.resume is not None:
        _check_resume(options)
        made = Run.resume(options.resume, *options.words, checkpoint=options.checkpoint)
    else:
        if options.checkpoint is not None:
            options.parser.error("--checkpoint goes with --resume RUN")
        if not options.words:
            options.parser.error("say what to train: mapsto train SPEC, or mapsto train --resume RUN")
        made = Run(load_spec(options.words[0]).override(*options.words[1:]), options.run)
    if not options.quiet:
        made.observers = (*made.observers, *_progress(made))
    try:
        result = made.fit()
    except KeyboardInterrupt:
        if made.checkpoints.paths():
            note(f"ended at once; up to the last checkpoint it is saved. Go on with: mapsto train --resume {made.folder.path}")
        raise
    return _end(result, options.quiet)


def _check_resume(options: argparse.Namespace) -> None:
    if options.run is not None:
        options.parser.error("--resume goes on in the folder of its run; --run is for a new one")
    for word in options.words:
        if "=" not in word:
            options.parser.error(f"a resumed run has its spec already, so {word!r} is one too many; changes are path=value")


def _progress(run: Run) -> list[Any]:
    """The progress display, where the spec does not name one itself."""
    from ..engine.observers.progress import Progress

    named = [o for o in run.spec.observers if isinstance(o, Progress) or (isinstance(o, Part) and o.name == "progress")]
    return [] if named else [Progress(console=console())]


def _end(result: Result, quiet: bool) -> int:
    """Write the report, say where it is and how to go on; the exit code."""
    from ..engine.report import write_report

    try:
        write(f"report: {write_report(result.folder)}")
    except Exception as error:  # noqa: BLE001  # whatever it is, what was trained is saved
        told = error if isinstance(error, MapstoError) else f"{type(error).__name__}: {error}"
        note(f"the report could not be written: {told}\nagain: mapsto report {result.folder}")
    if quiet and result.reason != "finished":
        note(f"{result.reason}: {result.why}. Go on with: {result.go_on}")
    if result.reason != "interrupted":
        return 0
    return SIGTERM if result.why == "SIGTERM" else 130
