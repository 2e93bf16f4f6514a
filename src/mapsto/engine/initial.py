"""Starting from the weights of another run, or of a file: what a model takes of them, what it does not, and why."""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, SpecError
from ..data.paths import beside
from .checkpoints.checkpoint import Checkpoints
from .checkpoints.manifest import MANIFEST
from .consolidate import weights_of
from .fingerprint import digest_of
from .folder import SPEC, RunFolder
from .wing import Wing

SHOWN = 6
"""Names that a line tells before it only counts them."""


def read_initial(stated: Mapping[str, Any], wing: Wing) -> Initial:
    """What `init_from` of a spec names. Raises CheckpointError where it cannot be read, SpecError where nothing is there."""
    path, checkpoint = located(stated)
    if (path / SPEC).is_file():
        found = Checkpoints(RunFolder(path).checkpoints, wing).find(checkpoint if checkpoint is not None else "last")
        return Initial(weights_of(found, wing), str(found), stated.get("only", ()), stated.get("except", ()))
    try:
        tensors = dict(wing.read_weights(path))
    except CheckpointError:
        raise
    except Exception as error:
        why = str(error).strip().splitlines() or [""]
        raise CheckpointError(f"init_from: {path} cannot be read as weights: {type(error).__name__}: {why[0]}") from error
    return Initial(tensors, str(path), stated.get("only", ()), stated.get("except", ()))


def located(stated: Mapping[str, Any]) -> tuple[Path, Any]:
    """The run's folder or the file that `init_from` names, and which checkpoint. Raises SpecError where neither is there."""
    path, checkpoint = Path(stated["path"]).expanduser(), stated.get("checkpoint")
    if (path / MANIFEST).is_file():
        path, checkpoint = path.parent.parent, path.name
    if (path / SPEC).is_file():
        return path, checkpoint
    if checkpoint is not None or path.is_dir():
        raise SpecError(f"init_from: {path} is not the folder of a run: it has no {SPEC}")
    if not path.is_file():
        raise SpecError(f"init_from: there is no run or file {path}; {beside(path)}")
    return path, None


class Initial:
    """Named tensors, of which a model takes those that fit: before middleware changes it, and what is left of them after.

    only, without: patterns of names of the model; a name without a wildcard means all that is below it too.
    """

    def __init__(
        self, tensors: Mapping[str, Any], source: str, only: tuple[str, ...] = (), without: tuple[str, ...] = ()
    ) -> None:
        self.tensors, self.source, self.only, self.without = dict(tensors), source, only, without
        self.prefix = ""
        self._taken: dict[str, Any] = {}
        self._own: dict[str, Any] = {}
        self._misfits: dict[str, str] = {}
        self._began = False

    def fit(self, own: Mapping[str, Any], like: Callable[[Any], tuple[str, list[int]]]) -> dict[str, Any]:
        """Of the named tensors of a model those to be put in their place. like: (kind of numbers, shape) of a tensor.

        Called first for the model as it was built, and again when all middleware has changed it.
        """
        if not self._began and not set(own) & set(self.tensors):
            self._strip(own)
        found = {}
        for name, tensor in own.items():
            if name in self._taken or name not in self.tensors or not self._wanted(name):
                continue
            there, here = like(self.tensors[name]), like(tensor)
            if there == here:
                found[name] = self.tensors[name]
                self._misfits.pop(name, None)
            else:
                self._misfits[name] = f"{name}: {_shape(there, here)} there, {_shape(here, there)} here"
        if not self._began:
            self._own = dict(own)
        self._began = True
        self._taken |= found
        self._own |= {name: tensor for name, tensor in own.items() if name in found or name in self._misfits}
        return found

    def _wanted(self, name: str) -> bool:
        chosen = not self.only or any(_matches(name, p) for p in self.only)
        return chosen and not any(_matches(name, p) for p in self.without)

    def _strip(self, own: Mapping[str, Any]) -> None:
        """Leave out what all names begin with (`module.` of a wrapper), where they are then those of the model."""
        first = next(iter(self.tensors), "")
        for end in [i + 1 for i, letter in enumerate(first) if letter == "."]:
            prefix = first[:end]
            if all(n.startswith(prefix) for n in self.tensors) and {n[end:] for n in self.tensors} & set(own):
                self.prefix, self.tensors = prefix, {n[end:]: t for n, t in self.tensors.items()}
                return

    def finish(self) -> dict[str, Any]:
        """What was taken, left and did not fit, as JSON data. Raises SpecError where nothing was, or a pattern is no name's."""
        names = list(self._own)
        for key, patterns in (("only", self.only), ("except", self.without)):
            for pattern in patterns:
                if not any(_matches(name, pattern) for name in names):
                    raise SpecError(f"init_from.{key}: nothing in the model matches {pattern!r}; {_near(pattern, names)}")
        missing = [n for n in names if n not in self._taken and n not in self._misfits and self._wanted(n)]
        unused = [n for n in self.tensors if n not in self._own]
        if not self._taken:
            why = "; ".join([*list(self._misfits.values())[:4], *(f"{n}: {_near(n, unused)}" for n in missing[:4])])
            raise SpecError(f"init_from: nothing of the {len(self.tensors)} tensors of {self.source} fits the model: {why}")
        return {
            "from": self.source,
            "sha256": digest_of(dict(sorted(self._taken.items()))),
            "taken": list(self._taken),
            "excluded": [n for n in names if not self._wanted(n)],
            "missing": missing,
            "misfits": list(self._misfits.values()),
            "unused": unused,
            "prefix": self.prefix,
            "nearest": {n: near for n in missing if (near := _nearest(n, unused)) is not None},
        }


def lines_of(report: Mapping[str, Any]) -> list[str]:
    """The report on initial weights as lines for people: what was taken, and what was left and why."""
    near = report["nearest"]
    missing = [f"{n} (nearest there: {near[n]})" if n in near else n for n in report["missing"]]
    parts = (
        ("taken", report["taken"]),
        ("left as made, for they are not wanted", report["excluded"]),
        ("left as made, for there are none of that name", missing),
        ("left as made, for they do not fit", report["misfits"]),
        ("not in this model", report["unused"]),
    )
    stripped = f", names without {report['prefix']!r}" if report["prefix"] else ""
    return [f"{report['from']} ({report['sha256']}){stripped}", *(_line(what, names) for what, names in parts if names)]


def _line(what: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}"


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern + ".")


def _nearest(name: str, there: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, there[:1000], n=1, cutoff=0.5)), None)


def _near(name: str, there: list[str]) -> str:
    close = _nearest(name, there)
    return f"nearest is {close!r}" if close is not None else f"there are {', '.join(there[:SHOWN]) or 'none'}"


def _shape(own: tuple[str, list[int]], other: tuple[str, list[int]]) -> str:
    return json.dumps(own[1]) if own[0] == other[0] else f"{own[0]} {json.dumps(own[1])}"
