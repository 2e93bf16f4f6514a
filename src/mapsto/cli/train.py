"""Train a spec, or go on with a run.

SPEC is a recipe (recipe.py, or recipe.py:function), package.module:function, a YAML file, or a run folder (whose spec is
then run anew). Settings are changed by path=value: optimizer.lr=1e-3, epochs=3, middleware+=ema."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
from typing import TYPE_CHECKING, Any

from ..core.errors import MapstoError
from ..core.load_spec import load_spec
from ..core.values import Part
from ..launch.record import is_follower, is_launched, recorded
from . import folds, launching, trusting
from .console import console, note, write

if TYPE_CHECKING:
    from ..core.recipes import Kept
    from ..engine.run import Result, Run

EPILOG = """\
examples:
  mapsto train recipes/digits.py                              into runs/NAME-TIME
  mapsto train recipes/digits.py optimizer.lr=1e-3 epochs=3   with settings changed
  mapsto train recipes/digits.py --run runs/first             into a folder of your choice
  mapsto train --resume runs/first                            go on where it stopped, bitwise the same on CPU
  mapsto train --resume runs/first epochs=40                  train it for longer (--schedule-changed where rates depend on it)
  mapsto train --resume runs/first --checkpoint 1200          go on from an earlier checkpoint
  mapsto train recipes/digits.py --init-from runs/base@best --except head      from the weights of another run
  mapsto train recipes/digits.py --run runs/job --continue    start, or go on where it was started before
  mapsto train RECIPE --folds 5 --run runs/cv                 five runs, one a fold of its data, and their means
  mapsto train recipes/digits.py --ranks 4                    four ranks on this machine
  mapsto train SPEC --ranks 8 --nodes 2 --node-rank 0 --rendezvous node-0:29500 --run runs/job     on each of two
  torchrun --nproc-per-node 4 -m -- mapsto train SPEC --run runs/job                 under torchrun, or srun

Ctrl-C (or SIGTERM, or SIGUSR1) ends the run after its step, saved; a second one ends it at once. See docs/distributed.md.
A resumed run keeps its trajectory: of its settings, epochs or steps, log_every, evaluate_every, checkpoint and observers
may change, and where the same data lie. Other data, or a length that the rates depend on, must be said to be meant."""


BEGUN = ("spec.yaml", "environment.json", "data.json", "metrics.jsonl", "recipes", "checkpoints", "panels.json", "report.html")
"""What a run writes into its folder; with no checkpoint among it, nothing can go on from it."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "mapsto train SPEC [path=value ...] [--run FOLDER [--continue]] [--ranks N ...] [--quiet]\n"
        "       mapsto train --resume RUN [path=value ...] [--checkpoint STEP] [--data-changed ...] [--quiet]"
    )
    parser.add_argument("words", nargs="*", metavar="SPEC path=value", help="what to train, and changes to it")
    parser.add_argument("--run", metavar="FOLDER", help="the run folder to make (default: runs/NAME-TIME)")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    parser.add_argument("--checkpoint", metavar="STEP", help="the checkpoint to go on from: last (default), best, or a step")
    parser.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help="go on with the run in --run FOLDER where there is one, else start it",
    )
    parser.add_argument(
        "--init-from", metavar="RUN[@WHICH]", help="start from the weights of a run (@best, @STEP) or of a file"
    )
    parser.add_argument("--only", metavar="PATTERN", action="append", help="of --init-from, only these names of the model")
    parser.add_argument(
        "--except", dest="without", metavar="PATTERN", action="append", help="of --init-from, all but these names"
    )
    parser.add_argument(
        "--folds", metavar="K", type=int, help="train a run for each of K folds of the data's `fold` sources, and compare them"
    )
    parser.add_argument("--data-changed", action="store_true", help="go on although the data are not those of the checkpoint")
    parser.add_argument("--recipes-changed", action="store_true", help="go on with recipe files as they are now")
    parser.add_argument(
        "--schedule-changed", action="store_true", help="go on although another length changes the rates, by those it has now"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but the report's place and how to go on")
    trusting.arguments(parser)
    launching.arguments(parser)


def run(options: argparse.Namespace) -> int:
    _check(options)
    if options.folds is not None:
        trusting.admit(options, options.words[0])
        return folds.train(options)
    ranked = launching.become_rank()
    if not is_launched():  # else the launcher has asked
        trusting.admit(options, options.resume or options.words[0], quiet=is_follower())
    if ranked:
        return _train(options)
    request = launching.requested(options)
    if request is not None:
        return launching.launch(options, request)
    return _train(options)


def _train(options: argparse.Namespace) -> int:
    """Train in this process, which may be a rank of several."""
    at: dict[str, Run] = {}
    with recorded(lambda: at["run"].folder.path, lambda: at["run"].program.position if "program" in vars(at["run"]) else None):
        at["run"], resumes = _made(options)
        request = launching.wanted(options, at["run"].spec)
        if request is not None:
            return launching.launch(options, request)
        result = _fitted(at["run"], resumes, options.quiet, changed(options))
    return _end(result, options.quiet)


def changed(options: argparse.Namespace) -> dict[str, bool]:
    """What was said to be another than it was, as `Run.fit` takes it."""
    return {f"{name}_changed": True for name in ("data", "schedule") if getattr(options, f"{name}_changed")}


def _fitted(made: Run, resumes: bool, quiet: bool, changed: dict[str, bool]) -> Result:
    if not quiet and not is_follower():
        made.observers = (*made.observers, *_progress(made))
    try:
        return made.fit(resume=resumes, **changed)
    except KeyboardInterrupt:
        if made.checkpoints.paths() and not is_follower():
            note(f"ended at once; up to the last checkpoint it is saved. Go on with: mapsto train --resume {made.folder.path}")
        raise


def _made(options: argparse.Namespace) -> tuple[Run, bool]:
    """The run, and whether it is gone on with."""
    from ..engine.run import Run

    if options.resume is not None:
        said = {"recipes_changed": options.recipes_changed}
        return Run.resume(options.resume, *options.words, checkpoint=options.checkpoint, **said), False
    kept = _kept(options) if options.go_on or (launching.is_rank() and launching.goes_on()) else None
    made = Run(load_spec(options.words[0], kept).override(*options.words[1:]), options.run)
    if not options.go_on and not (launching.is_rank() and launching.goes_on()):
        return made, False
    resumes = bool(made.checkpoints.paths())
    if not resumes and not is_follower():
        _clear(made)
    return made, resumes


def _kept(options: argparse.Namespace) -> Kept | None:
    """The recipe files that a run which is gone on with has kept."""
    from ..engine.checkpoints.checkpoint import checkpoint_paths
    from ..engine.folder import RunFolder

    folder = RunFolder(options.run) if options.run is not None else None
    if folder is None or options.recipes_changed or not checkpoint_paths(folder.checkpoints):
        return None
    return folder.kept_recipes()


def _clear(run: Run) -> None:
    """Remove what a run left that has no checkpoint; its logs, and files that are not of a run, stay.

    A folder in which no run was begun is somebody's own, whatever its files are called, and is refused afterwards.
    """
    for name in BEGUN if run.folder.was_begun() else ():
        path = run.folder.path / name
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _check(options: argparse.Namespace) -> None:
    """Wrong usage ends here. What the run starts from becomes a word of the command, as the spec has it."""
    for name, given in (("only", options.only), ("except", options.without)):
        if given and options.init_from is None:
            options.parser.error(f"--{name} goes with --init-from")
    if options.init_from is not None:
        if options.resume is not None:
            options.parser.error("--init-from is for a new run; --resume goes on with the weights that a run has")
        said = {"path": options.init_from, "only": options.only, "except": options.without}
        options.words.append("init_from=" + json.dumps({k: v for k, v in said.items() if v is not None}))
    if options.folds is not None:
        if options.folds < 2:
            options.parser.error(f"--folds took {options.folds}; there are at least 2")
        if options.resume is not None:
            options.parser.error("--folds is for new runs; a fold's own run is gone on with by --resume RUN/fold-1")
    if options.resume is None:
        if options.checkpoint is not None:
            options.parser.error("--checkpoint goes with --resume RUN")
        for name in launching.CHANGED:
            if getattr(options, f"{name}_changed") and not options.go_on:
                options.parser.error(f"--{name}-changed goes with --resume RUN (or --continue): a new run has nothing to keep")
        if not options.words and options.ray not in (None, "auto"):
            options.parser.error(f"--ray took {options.ray!r} as the cluster's address; write it behind the SPEC")
        if not options.words:
            options.parser.error("say what to train: mapsto train SPEC, or mapsto train --resume RUN")
        if options.folds is not None and options.nodes is not None:
            options.parser.error("--folds trains one run after another on this machine; --nodes goes with a run of its own")
        if options.go_on and options.run is None:
            options.parser.error("--continue goes with --run FOLDER, which says where the run is kept")
        return
    if options.go_on:
        options.parser.error("--resume goes on with a run; --continue is for one that may not have been started")
    if options.run is not None:
        options.parser.error("--resume goes on in the folder of its run; --run is for a new one")
    for word in options.words:
        if "=" not in word:
            options.parser.error(f"a resumed run has its spec already, so {word!r} is one too many; changes are path=value")


def _progress(run: Run) -> list[Any]:
    """The progress display, where the spec does not name one itself."""
    from ..engine.observers.progress import Progress

    class UntilItFails(Progress):
        """Whose failure a launcher tells, which knows the cause."""

        def __call__(self, event: Any) -> None:
            if event.name == "end" and event.detail.get("reason") == "failed":
                self.close()
            else:
                super().__call__(event)

    named = [o for o in run.spec.observers if isinstance(o, Progress) or (isinstance(o, Part) and o.name == "progress")]
    return [] if named else [(UntilItFails if is_launched() else Progress)(console=console())]


def _end(result: Result, quiet: bool) -> int:
    """Write the report, say where it is and how to go on; the exit code."""
    if not is_follower():
        _report(result, quiet)
    if result.reason != "interrupted":
        return 0
    return 128 + getattr(signal, result.why, signal.SIGINT)


def _report(result: Result, quiet: bool) -> None:
    from ..engine.report import write_report

    try:
        write(f"report: {write_report(result.folder)}")
    except Exception as error:  # noqa: BLE001  # whatever it is, what was trained is saved
        told = error if isinstance(error, MapstoError) else f"{type(error).__name__}: {error}"
        note(f"the report could not be written: {told}\nagain: mapsto report {result.folder}")
    if quiet and result.reason != "finished":
        note(f"{result.reason}: {result.why}. Go on with: {result.go_on}")
