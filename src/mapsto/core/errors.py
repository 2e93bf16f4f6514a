"""The errors a user can meet: each says what is wrong, where, what is allowed and the nearest right name."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import traceback
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any


class MapstoError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""


class RegistryError(MapstoError):
    """A mapping cannot be registered, or two claim one name."""


class UnknownName(MapstoError, LookupError):
    """A name that is not registered under its kind."""


class SpecError(MapstoError, ValueError):
    """A spec with an unknown key, a wrong type or value, or a part that cannot be built."""


class ComposeError(MapstoError, ValueError):
    """Middlewares that cannot be put in one order."""


class DataError(MapstoError, ValueError):
    """Data that is missing, empty, unreadable or does not fit."""


class MissingFile(DataError):
    """A file or folder of data that is not where it is said to be."""


class LossError(MapstoError, ValueError):
    """A loss that does not say its total and its weight, or is not finite."""


class CheckpointError(MapstoError, RuntimeError):
    """A checkpoint that cannot be written, read or restored."""


class ExportError(MapstoError, RuntimeError):
    """A model that cannot be made into an artefact, or an artefact that does not compute what the model does."""


class LaunchError(MapstoError, RuntimeError):
    """Ranks that cannot be started, cannot meet, or have failed."""


class PlanError(MapstoError, RuntimeError):
    """A plan that cannot be made: a model that cannot run without data, a size that cannot be read."""


class DivergenceError(MapstoError, RuntimeError):
    """Ranks that hold copies of the same weights or state, and whose copies are no longer equal."""


class ClusterError(MapstoError, RuntimeError):
    """A process of a cluster that could not be started, failed, or was lost and could not be replaced."""


class MissingExtra(MapstoError, ImportError):
    """An optional dependency that is not installed."""


def placed(error: MapstoError, path: str) -> MapstoError:
    """The error with the path of what it is about before its sentence; the error itself where it tells that already."""
    text = str(error)
    if text.startswith((f"{path}:", f"{path}.")):
        return error
    try:
        return type(error)(f"{path}: {text}")
    except TypeError:  # one that is made of more than a sentence
        return error


@contextlib.contextmanager
def said_of(file: Any) -> Iterator[None]:
    """Within it, an error in what a spec says names the file that says it, too."""
    try:
        yield
    except (SpecError, ComposeError) as error:
        raise type(error)(f"{file}: {error}") from error


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line: its first, or the name of its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def told(error: BaseException) -> str:
    """An error of somebody's module in one line: its kind, what it says, and below which line of theirs it was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)[1:] if not f.filename.startswith("<")]
    own = [f for f in frames if f.filename != importlib.__file__]
    where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}{where}"


MOST, LONGEST = 100, 80
"""Names that a sentence lists, and characters of each: a file may hold any."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of an error sentence: what is allowed and, where one is close, the nearest right name."""
    names = sorted({str(a) for a in allowed})
    if not names:
        return "nothing is allowed here"
    lowered: dict[str, list[str]] = {}  # what differs in capitals alone is the nearest of all
    for allowed_name in names:
        lowered.setdefault(allowed_name.lower(), []).append(allowed_name)
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    alike = difflib.get_close_matches(name, lowered[close[0]], n=1, cutoff=0.0) if close else []
    hint = f"; did you mean {alike[0]!r}?" if alike else ""
    told = ", ".join(name if len(name) <= LONGEST else f"{name[:LONGEST]}..." for name in names[:MOST])
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"allowed: {told}{more}{hint}"


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional `module`, or raise `MissingExtra` with the one line that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"{purpose} needs {module.split('.')[0]!r}, which is not installed: pip install 'mapsto[{extra}]'"
        ) from None
