"""The command line: one small file a verb; `main` parses, runs one of them and maps its outcome to an exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from ..core.errors import MapstoError, nearest
from ..core.registry import DISABLE, registry
from ..core.shown import shown
from ..core.trust import only_registered
from .console import fail, forget_stdout, note, own_last_words

VERBS = {
    "train": "train a spec, or go on with a run",
    "evaluate": "measure a run on one of its data sets",
    "predict": "write a run's predictions to a file",
    "consolidate": "write a checkpoint's weights to one plain file",
    "report": "write a run's report page, and open it",
    "doctor": "say what was wrong with a run, with its evidence",
    "diff": "say where two runs first differ, and in what",
    "check": "prove that mappings keep the laws of their kind",
    "list": "what is registered: built in, by plugins, by recipe files",
    "show": "the plan and the parts of a spec, or one mapping's options",
    "plan": "memory and communication of meshes, before a run",
    "new": "write an installable plugin package for a mapping of one's own",
}
"""Verb -> summary; each is the module of this name beside this file."""

ERROR, USAGE, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141

_EPILOG = """\
begin with:
  mapsto list middleware                  what there is to build with
  mapsto show recipes/digits.py           what a recipe would do, before it does it
  mapsto train recipes/digits.py epochs=3 train it, with one setting changed
  mapsto train --resume runs/NAME         go on with a run that was stopped
  mapsto new middleware my_trick          a plugin package of your own

exit codes: 0 done; 1 an error, which is explained; 2 wrong usage; 3 doctor found something; 130 stopped by Ctrl-C; 143
by SIGTERM; 141 the reader of the output went away. MAPSTO_DEBUG=1 (or --debug behind a command) shows where an error
was raised.
`mapsto COMMAND --help` explains a command with examples."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Wrong usage, --help and --version raise SystemExit, as argparse does."""
    own_last_words()
    verb, options = parse(sys.argv[1:] if argv is None else argv)
    try:
        if os.environ.get(DISABLE):
            for said in registry.misnamed():
                note(said)
        with only_registered() if getattr(options, "registered_only", False) else contextlib.nullcontext():
            code: int = verb.run(options)
        sys.stdout.flush()  # a reader that went away is found out here, not while the interpreter ends
    except BrokenPipeError:
        forget_stdout()
        return CLOSED_PIPE
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except (MapstoError, OSError) as error:
        return _explain(error, options.debug)
    return code


def parse(argv: Sequence[str]) -> tuple[Any, argparse.Namespace]:
    """The module of the verb that the command line names, and its parsed options."""
    words = list(argv)
    if not words or words[0].startswith("-"):
        top = _top()
        _, unknown = top.parse_known_args(words or ["--help"])
        if unknown:
            top.refuse(unknown[0])
        top.error("say a command first, such as: mapsto train SPEC")
    if words[0] not in VERBS:
        _top().error(f"there is no command {words[0]!r}; {nearest(words[0], VERBS)}")
    verb = importlib.import_module(f".{words[0]}", __package__)
    parser = Parser(
        prog=f"mapsto {words[0]}",
        description=verb.__doc__,
        epilog=verb.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show where an error was raised")
    # intermixed, so that overrides may stand before, between and behind the options
    options, unknown = parser.parse_known_intermixed_args(words[1:])
    if unknown:
        parser.refuse(unknown[0])
    options.debug = options.debug or os.environ.get("MAPSTO_DEBUG", "0") not in ("", "0")
    options.parser, options.said = parser, words[1:]
    return verb, options


class Parser(argparse.ArgumentParser):
    """A parser that never guesses an abbreviated option and names the one command that explains more."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def refuse(self, word: str) -> NoReturn:
        """Say that a word is no option (with the nearest right one), or stands where none is wanted."""
        if not word.startswith("-"):
            self.error(f"{word!r} is one word too many")
        option = word.partition("=")[0]
        known = [name for name in self._option_string_actions if name.startswith("--")]
        self.error(f"there is no option {option!r}; {nearest(option, known)}")

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, shown(f"{self.prog}: {message}\nSee: {self.prog} --help\n"))


def _top() -> Parser:
    from .. import __version__

    commands = "\n".join(f"  {name:<13}{summary}" for name, summary in VERBS.items())
    parser = Parser(
        prog="mapsto",
        usage="mapsto COMMAND [options]",
        description=f"mapsto: extend a deep-learning framework without forking it.\n\ncommands:\n{commands}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mapsto {__version__}")
    return parser


def _explain(error: BaseException, debug: bool) -> int:
    """One clear message; the traceback only where it was asked for, or where the error is none of ours."""
    if debug:
        note("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, MapstoError):
        fail(str(error))
    else:
        fail(f"{error or type(error).__name__}" + ("" if debug else "  (--debug shows where)"))
    return ERROR
