"""What a run starts from: `init_from`, the weights of another run or of a file, as a spec states it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import SpecError, nearest
from .typed import shortened
from .values import Frozen

KEYS = ("path", "checkpoint", "only", "except")


def initial(value: Any) -> Frozen | None:
    """`init_from` in its one form: {path, checkpoint, only, except}, of which those that are said.

    A text is a path; `RUN@best`, `RUN@120`: a checkpoint of a run. only, except: patterns of names of the model. Raises
    SpecError.
    """
    if value is None:
        return None
    if isinstance(value, (str, Path)):
        value = {"path": str(value)}
    if not isinstance(value, Mapping) or "path" not in value:
        raise SpecError(f"init_from: {shortened(value)} names no path; write {{path: RUN or FILE, only: [...], except: [...]}}")
    for key in value:
        if key not in KEYS:
            raise SpecError(f"init_from.{key}: unknown key; {nearest(str(key), KEYS)}")
    found = {key: item for key, item in value.items() if item is not None}
    if not isinstance(found["path"], (str, Path)) or not str(found["path"]):
        raise SpecError(f"init_from.path: {shortened(found['path'])} is not the path of a run or of a file")
    path, at, which = str(found["path"]).rpartition("@")
    if at and path and "checkpoint" not in found and not Path(str(found["path"])).exists():
        found |= {"path": path, "checkpoint": which}
    found["path"] = str(found["path"])
    if "checkpoint" in found and type(found["checkpoint"]) not in (str, int):
        raise SpecError(f"init_from.checkpoint: {shortened(found['checkpoint'])} is not last, best or a step")
    for key in ("only", "except"):
        if key in found:
            patterns = (found[key],) if isinstance(found[key], str) else found[key]
            if not isinstance(patterns, (list, tuple)) or not patterns or not all(isinstance(p, str) and p for p in patterns):
                raise SpecError(f"init_from.{key}: {shortened(found[key])} is not a list of patterns, such as [encoder.*]")
            found[key] = tuple(patterns)
    return Frozen(found)
