"""Write an installable plugin package with a working mapping of a kind, its test and an example that uses it.

Change the mapping into your own, keep the test honest, and install the package: its name then works in every spec, with
no edit in mapsto and no import of yours."""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib
import keyword
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from ..core.errors import SpecError, UnknownName, nearest
from ..core.kinds import BUILT_IN
from ..core.registry import GROUP, registry
from ..core.wings import DEFAULT
from .console import note, write

EPILOG = """\
examples:
  mapsto new middleware spike_guard             writes ./mapsto-spike-guard
  mapsto new loss hinge --into ~/plugins        writes ~/plugins/mapsto-hinge
  mapsto new wing toyframe                      a framework of one's own: drivers, a layer, a law
then:
  pip install -e mapsto-spike-guard && pytest mapsto-spike-guard
  mapsto show middleware/spike_guard

NAME is snake_case: it is the name in specs and of the function, and CamelCase makes it that of a class."""

TEMPLATES = "mapsto.cli.templates"
"""The templates of wings stand beside those of PyTorch's kinds."""
PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "0.1.0"
description = "The {kind} {name} for mapsto."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["{requires}"]

[project.optional-dependencies]
test = ["pytest"]

# What makes it known to mapsto: "kind/name" = "module:attribute". One package may register many.
{entries}

[tool.setuptools.packages.find]
where = ["src"]

[tool.pytest.ini_options]
testpaths = ["tests"]
"""

README = """\
# {distribution}

The {kind} `{name}` for mapsto: {signature}.

    pip install -e .         # `mapsto list {kind}` names it from now on, and every spec may use it
    pytest                   # its test
    {command}

| file | what |
|---|---|
| `src/{package}/__init__.py` | the mapping |
| `tests/test_{name}.py` | what it owes |
| `{example}` | a run that uses it by name |
| `pyproject.toml` | the entry point `{kind}/{name}`, of the group `{group}` |
"""


ENTRY = """\
[project.entry-points."{group}"]
"{kind}/{name}" = "{package}:{target}\""""
WING_ENTRIES = """\
[project.entry-points."mapsto.wings"]
{name} = "{package}:WING"

[project.entry-points."mapsto.{name}"]
"layer/dense" = "{package}.layers:Dense"
"schedule/halving" = "{package}.schedules:Halving"
"law/{name}" = "{package}.native_laws:laws\""""
WING_README = """\
# {distribution}

The wing `{name}` for mapsto: a framework of one's own, whose mappings keep the laws of every wing.

    pip install -e .
    pytest                                  # its test
    mapsto check {name}/layer/dense           # what a layer of it owes, and whether it keeps it

| file | what |
|---|---|
| `src/{package}/__init__.py` | what mapsto knows of it before it is imported |
| `src/{package}/framework.py` | a framework in a page, for yours to take its place |
| `src/{package}/layers.py`, `schedules.py` | a layer and a schedule, with what their laws are fed |
| `src/{package}/drivers.py` | how laws build, feed and read them: the file to make yours |
| `src/{package}/laws.py` | what the checker asks of the wing |
| `src/{package}/native_laws.py` | a law of this framework alone |
| `tests/test_{name}.py` | the laws as tests, and planted bugs that they must catch |
| `pyproject.toml` | the entry points: the wing, and what is of it |

Next: drivers of losses, optimizers, surgery (`mapsto.laws.drivers` says what each method gives, the page of laws which of
them a law needs), and `program` of the wing, by which specs of `wing: {name}` train (`mapsto.engine.wing.Wing`).
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", help=f"one of {', '.join(kinds())}; or wing, a framework of one's own")
    parser.add_argument("name", metavar="NAME", help="snake_case")
    parser.add_argument("--wing", default=DEFAULT, help=f"the framework that it extends (default: {DEFAULT})")
    parser.add_argument("--into", metavar="DIR", default=".", help="where to make the package's folder (default: here)")


def run(options: argparse.Namespace) -> int:
    folder = write_package(options.kind, options.name, Path(options.into), options.wing)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    write(str(folder))
    note("\n".join(f"  {file}" for file in files))
    then = f"check {options.name}/layer/dense" if options.kind == "wing" else f"show {options.kind}/{options.name}"
    note(f"\nnext:\n  pip install -e {folder} && pytest {folder}\n  mapsto {then}")
    return 0


def write_package(kind: str, name: str, into: Path, wing: str = DEFAULT) -> Path:
    """Write the package and return its folder; it appears whole or not at all.

    Raises UnknownName for a wing that is not there or a kind without a template, SpecError for a name that cannot be used, is
    taken, or whose folder exists.
    """
    if kind != "wing" and kind not in kinds(wing):
        raise UnknownName(
            f"there is no template for a kind {kind!r} in the wing {wing}; {nearest(kind, [*kinds(wing), 'wing'])}"
        )
    _check_name(kind, name, wing)
    distribution = f"mapsto-{name.replace('_', '-')}"
    folder = into.expanduser() / distribution
    if folder.exists():
        raise SpecError(f"{folder} exists already: nothing was written; choose another name, or --into another folder")
    temporary = folder.with_name(f".{distribution}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        files = wing_files(name, distribution) if kind == "wing" else files_of(kind, name, distribution, wing)
        for path, text in files.items():
            file = temporary / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def kinds(wing: str = DEFAULT) -> list[str]:
    """The kinds that a wing has a template for. Raises UnknownName where there is no such wing."""
    package = registry.wing(wing).templates
    there = {file.name for file in resources.files(package).iterdir()} if package else set()
    return [kind for kind in sorted(BUILT_IN) if f"{kind}.py" in there]


def files_of(kind: str, name: str, distribution: str, wing: str) -> dict[str, str]:
    """Path -> text of every file of the package."""
    package, framework = distribution.replace("-", "_"), registry.wing(wing)
    templates: Any = importlib.import_module(framework.templates)
    code = _filled(_template(kind, wing), name)
    in_yaml = kind in templates.EXAMPLES
    example = "example.yaml" if in_yaml else "example.py"
    facts = {
        "kind": kind,
        "name": name,
        "distribution": distribution,
        "package": package,
        "target": camel(name) if re.search(rf"^class {camel(name)}\b", code, re.MULTILINE) else name,
        "signature": registry.kind(kind).signature,
        "group": f"{GROUP}.{wing}" if registry.kind(kind).native else GROUP,
        "requires": framework.requires,
        "example": example,
        "command": _command(kind, example, in_yaml),
    }
    return {
        "pyproject.toml": PROJECT.format(**facts, entries=ENTRY.format(**facts)),
        "README.md": README.format(**facts),
        f"src/{package}/__init__.py": code,
        f"src/{package}/py.typed": "",
        f"tests/test_{name}.py": _filled(_template(f"test_{kind}", wing), name),
        example: _filled(_spec(kind, templates) if in_yaml else _template(f"example_{kind}", wing), name),
    }


def wing_files(name: str, distribution: str) -> dict[str, str]:
    """Path -> text of every file of a package that brings a wing."""
    package, room = distribution.replace("-", "_"), resources.files(TEMPLATES).joinpath("wing")
    facts = {"kind": "wing", "name": name, "distribution": distribution, "package": package, "requires": "mapsto"}
    code = {file.name: file.read_text(encoding="utf-8") for file in room.iterdir() if file.name.endswith(".py")}
    test = (
        resources.files(TEMPLATES)
        .joinpath("test_wing.py")
        .read_text(encoding="utf-8")
        .replace("from .wing.", f"from {package}.")
    )
    return {
        "pyproject.toml": PROJECT.format(**facts, entries=WING_ENTRIES.format(**facts)),
        "README.md": WING_README.format(**facts),
        **{f"src/{package}/{file}": _filled(text, name) for file, text in sorted(code.items())},
        f"src/{package}/py.typed": "",
        f"tests/test_{name}.py": _filled(test, name),
    }


def camel(name: str) -> str:
    """`clip_norm` -> `ClipNorm`."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def _check_name(kind: str, name: str, wing: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
        hint = f"; write {'_'.join(words)}" if words and words[0][0].isalpha() else ""
        raise SpecError(f"{name!r} is no name for a {kind}: snake_case is wanted, such as clip_norm{hint}")
    if kind == "wing":
        _check_wing(name)
        return
    taken = {*dir(builtins), *keyword.kwlist, *keyword.softkwlist, *_imported(kind, wing)}
    if hidden := [written for written in (name, camel(name)) if written in taken]:
        raise SpecError(f"{name!r} is no name for a {kind}: its code would hide another {hidden[0]!r}; choose another name")
    for entry in registry.entries(kind, wing):
        if entry.name == name:
            raise SpecError(f"{entry.key} exists already, from {entry.origin}: choose another name")


def _check_wing(name: str) -> None:
    if name in ("wings", *registry.kinds()) or keyword.iskeyword(name):
        raise SpecError(f"{name!r} is no name for a wing: it means something else to mapsto or Python; choose another name")
    if name in registry.wings():
        raise SpecError(f"the wing {name} exists already: choose another name")


def _imported(kind: str, wing: str) -> set[str]:
    """The names that the template imports."""
    trees = (ast.parse(_template(name, wing)) for name in (kind, f"test_{kind}"))
    imports = (node for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)))
    return {alias.asname or alias.name for node in imports for alias in node.names}


def _template(name: str, wing: str) -> str:
    return resources.files(registry.wing(wing).templates).joinpath(f"{name}.py").read_text(encoding="utf-8")


def _filled(text: str, name: str) -> str:
    return text.replace("my_name", name).replace("MyName", camel(name))


def _spec(kind: str, templates: Any) -> str:
    """The example in YAML, without the lines that stay empty."""
    text = templates.SPEC.format(**{**templates.LINES, **templates.EXAMPLES[kind]})
    return "".join(line + "\n" for line in text.splitlines() if line)


def _command(kind: str, example: str, in_yaml: bool) -> str:
    trained = in_yaml or kind in ("layer", "surgery")
    return f"mapsto train {example}" if trained else f"python {example}"
