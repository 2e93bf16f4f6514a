"""Recipe files: Python files outside any package that hold one's own mappings and the function that returns a spec."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from .errors import SpecError, nearest

_LOADED: dict[str, str] = {}


def module_name(path: str | Path) -> str:
    """The module name that a recipe file is imported under: `recipe_<stem>`, the same in every process."""
    return "recipe_" + re.sub(r"\W", "_", Path(path).stem)


def load_file(path: str | Path, name: str | None = None) -> ModuleType:
    """Import a recipe file (once a process) and so register what it declares.

    Raises SpecError where there is no such file, or another file of the same stem is loaded already.
    """
    file = Path(path).resolve()
    name = name or module_name(file)
    if name in _LOADED:
        if Path(_LOADED[name]) != file and Path(_LOADED[name]).read_bytes() != file.read_bytes():
            raise SpecError(f"{file} and {_LOADED[name]} would both be the module {name!r}: rename one of them")
        return sys.modules[name]
    if not file.is_file():
        there = [p.name for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise SpecError(f"there is no recipe file {file}; {nearest(file.name, there)}")
    script = sys.modules["__main__"]
    if Path(getattr(script, "__file__", None) or "").resolve() == file:  # run as a script, it has declared all that it has
        sys.modules[name], _LOADED[name] = script, str(file)
        return script
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:  # pragma: no cover  # any file of that suffix has a loader
        raise SpecError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    _LOADED[name] = str(file)
    try:
        found.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        _LOADED.pop(name, None)
        raise
    return module


def loaded_files() -> dict[str, str]:
    """Module name to path of every recipe file imported so far; worker processes import the same."""
    return dict(_LOADED)
