"""Recipe files: Python files outside any package that hold one's own mappings and the function that returns a spec.

A recipe imports the modules and packages beside it as any script does. Each of these belongs to its folder: two recipes
whose folders have modules of one name get their own. What was loaded is kept as it was read, for a run folder and for other
processes.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.abc
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from .errors import SpecError, nearest
from .trust import must_be_registered


@dataclass(frozen=True)
class Recipe:
    """A file that was loaded, or is kept to be loaded in the place of the one at `path`.

    name: of its module; source: its bytes; shown: the file that shows them; beside: whether a recipe imported it.
    """

    name: str
    path: str
    source: bytes
    shown: str
    beside: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source).hexdigest()


Kept = Mapping[str, Recipe]
"""What stands in the place of files, by their paths."""

_LOADED: dict[str, Recipe] = {}


def module_name(path: str | Path) -> str:
    """The module name that a recipe file is imported under: `recipe_<stem>`, the same in every process."""
    file = Path(path)
    return "recipe_" + re.sub(r"\W", "_", file.parent.name if file.name == "__init__.py" else file.stem)


def loaded_as(module: str) -> ModuleType | None:
    """The recipe file `module.py` that was loaded, which a reference in a spec may name as a script's own would."""
    name = module_name(f"{module}.py")
    return sys.modules.get(name) if name in _LOADED else None


def load_file(path: str | Path, name: str | None = None, *, kept: Kept | None = None) -> ModuleType:
    """Import a recipe file (once a process) and so register what it declares.

    kept: what is to be read in the place of it and of the modules beside it. Raises SpecError where there is no such file,
    another file of the same stem is loaded already, or another state of the file than the one that is kept.
    """
    must_be_registered(str(path))
    file, kept = Path(path).resolve(), kept or {}
    name = name or next((r.name for r in _LOADED.values() if r.beside and r.path == str(file)), module_name(file))
    if name in _LOADED:
        _same(_LOADED[name], file, kept)
        return sys.modules[name]
    found = _read(file, kept)
    if found is None:
        there = [p.name for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise SpecError(f"there is no recipe file {file}; {nearest(file.name, there)}")
    script = sys.modules["__main__"]
    if Path(getattr(script, "__file__", None) or "").resolve() == file:  # run as a script, it has declared all that it has
        sys.modules[name], _LOADED[name] = script, Recipe(name, str(file), *found)
        return script
    return _load(Recipe(name, str(file), *found), file.parent, kept)


def _same(loaded: Recipe, file: Path, kept: Kept) -> None:
    if loaded.path == str(file):
        for other in _LOADED.values():
            held = kept.get(other.path) if file.parent in Path(other.path).parents else None
            if held is not None and held.source != other.source:
                raise SpecError(
                    f"{other.path} is loaded already, and not as the run has kept it: go on with the run in a new process"
                )
        return
    found = _read(file, kept)
    if found is None or found[0] != loaded.source:
        raise SpecError(f"{file} and {loaded.path} would both be the module {loaded.name!r}: rename one of them")


def _read(file: Path, kept: Kept) -> tuple[bytes, str] | None:
    """The source of a file and the file that shows it; None where there is none."""
    if (held := kept.get(str(file))) is not None:
        return held.source, held.shown
    return (file.read_bytes(), str(file)) if file.is_file() else None


def _load(recipe: Recipe, folder: Path, kept: Kept) -> ModuleType:
    """Import it as a module, which looks for others in `folder` first."""
    spec = _spec(recipe, folder, kept)
    module = importlib.util.module_from_spec(spec)
    sys.modules[recipe.name] = module
    assert spec.loader is not None
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(recipe.name, None)
        raise
    return module


def _spec(recipe: Recipe, folder: Path, kept: Kept) -> ModuleSpec:
    file = Path(recipe.path)
    inside = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(
        recipe.name, file, loader=_Loader(recipe, folder, kept), submodule_search_locations=inside
    )
    assert spec is not None
    return spec


class _Loader(importlib.abc.InspectLoader):
    """Runs the source that was read, with an `import` that looks beside the recipe first."""

    def __init__(self, recipe: Recipe, folder: Path, kept: Kept) -> None:
        self.recipe, self.folder, self.kept = recipe, folder, kept

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        return importlib.util.decode_source(self.recipe.source)

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        code: CodeType = compile(self.recipe.source, self.recipe.shown, "exec", dont_inherit=True)
        return code

    def exec_module(self, module: ModuleType) -> None:
        _LOADED[self.recipe.name] = self.recipe
        try:
            code = self.get_code(module.__name__)
            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importer(self.folder, self.kept)}
            exec(code, module.__dict__)  # noqa: S102  # this is how a module is imported
        except BaseException:
            _LOADED.pop(self.recipe.name, None)
            raise


# -- modules beside a recipe -------------------------------------------------------------------------------------------
def _importer(folder: Path, kept: Kept) -> Callable[..., Any]:
    """`__import__` of a recipe and of the modules beside it.

    PyTorch's operators import while they run, by the builtins of the frame that calls them: a name that was not beside the
    recipe is not looked for again.
    """
    elsewhere: set[str] = set()

    def look(name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] = (), level: int = 0) -> Any:
        top, dot, rest = name.partition(".")
        module = _beside(top, folder, kept) if level == 0 and top not in elsewhere else None
        if module is None:
            found = builtins.__import__(name, globals, locals, fromlist, level)
            if level == 0:
                elsewhere.add(top)
            return found
        full = f"{module.__name__}{dot}{rest}"
        importlib.import_module(full)
        return builtins.__import__(full, globals, locals, fromlist, 0) if fromlist else module

    return look


def _beside(top: str, folder: Path, kept: Kept) -> ModuleType | None:
    """The module or package of that name in the folder of a recipe; None where there is none."""
    if top in sys.stdlib_module_names:
        return None
    file = next((f for f in (folder / top / "__init__.py", folder / f"{top}.py") if str(f) in kept or f.is_file()), None)
    if file is None:
        return _namespace(top, folder, kept)
    known = sys.modules.get(top)
    if known is not None and Path(getattr(known, "__file__", None) or "").resolve() == file:  # on sys.path too
        return known
    for recipe in _LOADED.values():
        if recipe.path == str(file):
            _same(recipe, file, kept)
            return sys.modules[recipe.name]
    plain, own = module_name(file), f"{module_name(file)}_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    found = _read(file, kept)
    assert found is not None
    module = _load(Recipe(plain if plain not in sys.modules else own, str(file), *found, beside=True), folder, kept)
    sys.modules.setdefault(own, module)  # the name that it has where another folder's came first
    _look_inside()
    return module


def _namespace(top: str, folder: Path, kept: Kept) -> ModuleType | None:
    """A folder beside a recipe that holds modules and no `__init__.py`, where nothing else has its name."""
    inside = folder / top
    has = any(inside in Path(path).parents for path in kept) or (inside.is_dir() and any(inside.glob("*.py")))
    if not has or top in sys.modules or importlib.util.find_spec(top) is not None:
        return None
    name = f"recipe_{top}_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        module = ModuleType(name)
        module.__path__ = [str(inside)]
        module.__loader__ = _Loader(Recipe(name, str(inside), b"", str(inside), beside=True), folder, kept)
        sys.modules[name] = module
        _look_inside()
    return sys.modules[name]


def _look_inside() -> None:
    if _Inside not in map(type, sys.meta_path):
        sys.meta_path.insert(0, _Inside())  # else the loader of any file would find what lies in the package


class _Inside(importlib.abc.MetaPathFinder):
    """Finds the modules inside a package that stands beside a recipe."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        parent, _, name = fullname.rpartition(".")
        loader = getattr(sys.modules.get(parent), "__loader__", None)
        if not isinstance(loader, _Loader) or path is None:
            return None
        for place in map(Path, path):
            for file in (place / name / "__init__.py", place / f"{name}.py"):
                if (found := _read(file, loader.kept)) is not None:
                    return _spec(Recipe(fullname, str(file), *found, beside=True), loader.folder, loader.kept)
        return None


# -- what was loaded ---------------------------------------------------------------------------------------------------
def loaded_files() -> dict[str, str]:
    """Module name to path of every recipe file imported so far."""
    return {name: recipe.path for name, recipe in _LOADED.items()}


def loaded_recipes() -> tuple[Recipe, ...]:
    """Every recipe file imported so far, and what it imported from beside it, as it was read."""
    return tuple(_LOADED.values())


def load_recipes(recipes: Iterable[Recipe]) -> None:
    """Import in another process what was loaded in one, from the same bytes, whatever the files hold by now."""
    kept = {recipe.path: recipe for recipe in recipes}
    for recipe in kept.values():
        parent, inside, _ = recipe.name.rpartition(".")
        if inside and parent in sys.modules:
            importlib.import_module(recipe.name)
        elif not inside:
            load_file(recipe.path, recipe.name, kept=kept)
