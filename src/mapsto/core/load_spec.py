"""A spec from what a person names on a command line: a recipe, a function of a package, a YAML file or a run folder."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

from .errors import SpecError, nearest
from .recipes import Kept, load_file, loaded_recipes
from .spec import Spec
from .trust import must_be_registered


def load_spec(argument: str, kept: Kept | None = None) -> Spec:
    """A spec from what the command line names. kept: what is to be read in the place of recipe files.

    `file.py` or `file.py:function` (default `spec`), `package.module:function`, `file.yaml`, or a run folder.
    Raises SpecError with what exists.
    """
    place, _, function = argument.rpartition(":") if ":" in argument else (argument, "", "")
    path = Path(place)
    if path.suffix == ".py":
        before = {recipe.path for recipe in loaded_recipes()}
        spec = _called(load_file(path, kept=kept), function or "spec", str(path))
        files = [str(path.resolve()), *(r.path for r in loaded_recipes() if r.path not in before and not r.beside)]
        return dataclasses.replace(spec, imports=tuple(dict.fromkeys([*spec.imports, *files])))
    if Path(argument).suffix in (".yaml", ".yml"):
        return _from_file(Path(argument))
    if Path(argument).is_dir():
        return _from_file(Path(argument) / "spec.yaml")
    if function:
        must_be_registered(argument)
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise SpecError(f"{argument}: no module named {error.name!r}") from None
        return _called(module, function, place)
    raise SpecError(
        f"{argument!r} is not a spec: name a recipe (file.py or file.py:function), package.module:function, "
        "a YAML file, or a run folder"
    )


def _from_file(path: Path) -> Spec:
    if not path.is_file():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise SpecError(f"there is no spec file {path}; {nearest(path.name, there)}")
    try:
        return Spec.from_yaml(path.read_text(encoding="utf-8"), base=path.parent)
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: this is not UTF-8 text: {error}") from None
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def _called(module: Any, name: str, where: str) -> Spec:
    function = getattr(module, name, None)
    if not callable(function):
        own = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise SpecError(f"{where} has no function {name!r} that returns a spec; {nearest(name, own)}")
    spec = function()
    if not isinstance(spec, Spec):
        raise SpecError(f"{where}:{name} returned a {type(spec).__name__}, and a mapsto.Spec is wanted")
    return spec
