"""The import graph: core <- data <- engine <- cli and core <- data <- a wing; no knots, function-local imports included."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "mapsto"
FRAMEWORKS = {"torch", "jax", "flax", "optax", "tensorflow", "keras"}
WINGS = {"torch", "jax", "tensorflow"}
ALLOWED = {  # the rooms of the house, and which others each may import
    "core": set(),
    "data": {"core"},
    "formulas": set(),
    "tasks": {"core"},
    "laws": {"core", "data", "formulas", "tasks"},  # laws of programs read batches, those of metrics count
    "engine": {"core", "data"},
    "servers": {"core"},
    "planning": {"core", "engine"},
    **{wing: {"core", "data", "formulas", "laws", "planning", "servers", "tasks", "processes"} for wing in WINGS},
    "wings": {"core"},
    "processes": {"core"},
    "check": {"core", "processes"},
    "launch": {"core", "processes"},
    "testing": {"core", "check"},
    "cli": {"", "core", "data", "engine", "check", "launch", "planning", "processes"},  # "" is the one door, mapsto itself
    "__main__": {"cli"},
}
Import = tuple[str, str, bool]  # the module, the name taken from it (or nothing), whether it stands within a function


def module_name(path: Path, root: Path = SOURCE) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool) -> Iterator[Import]:
    """Every import of a file, by absolute names, those for type checkers alone too."""
    package = module if is_package else module.rpartition(".")[0]

    def visit(node: ast.AST, local: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", local) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((origin, alias.name, local) for alias in node.names)
        inside = local or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(source), local=False)


def graph(root: Path = SOURCE) -> dict[str, set[str]]:
    """Our modules, and which of ours each imports. `from . import x` imports x where that is a module, else the package."""
    files = {module_name(path, root): path for path in sources(root)}
    edges: dict[str, set[str]] = {}
    for module, path in files.items():
        found = imports(path.read_text(), module, path.name == "__init__.py")
        named = {f"{origin}.{name}" if f"{origin}.{name}" in files else origin for origin, name, _ in found}
        edges[module] = named & set(files) - {module}
    return edges


def sources(root: Path) -> list[Path]:
    """Our files; what `mapsto new` copies into a package is that package's."""
    return [path for path in sorted(root.rglob("*.py")) if "templates" not in path.relative_to(root).parts]


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring, or nothing."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        found = next((ring for other in sorted(edges[module]) if (ring := walk(other, [*path, module]))), [])
        done.add(module)
        return found

    return next((ring for module in sorted(edges) if (ring := walk(module, []))), [])


def trespasses(edges: dict[str, set[str]]) -> list[str]:
    """Imports from a room into one that it may not import."""
    return [
        f"{module} imports {other}"
        for module, others in edges.items()
        for other in sorted(others)
        if room(module) and room(other) != room(module) and room(other) not in ALLOWED[room(module)]
    ]


# -- the house ---------------------------------------------------------------------------------------------------------
def test_every_room_is_known() -> None:
    assert {room(module) for module in graph()} - {""} <= set(ALLOWED)


def test_no_room_imports_what_it_may_not() -> None:
    assert trespasses(graph()) == []


def test_no_module_imports_itself_through_others() -> None:
    assert cycle(graph()) == []


@pytest.mark.parametrize("name", ["core", "wings", "data", "engine", "cli", "formulas", "laws", "planning", "servers", "tasks"])
def test_only_a_wing_imports_its_framework(name: str) -> None:
    found = [
        f"{module_name(path)} imports {imported}"
        for path in sources(SOURCE / name)
        for imported, _, local in imports(path.read_text(), module_name(path), path.name == "__init__.py")
        if imported.partition(".")[0] in FRAMEWORKS and not (local and name == "data")
    ]
    assert found == []


def test_a_wing_imports_no_other_framework() -> None:
    for wing in WINGS:
        for path in sources(SOURCE / wing):
            found = imports(path.read_text(), module_name(path), path.name == "__init__.py")
            tops = {name.partition(".")[0] for name, _, _ in found}
            assert not tops & (FRAMEWORKS - {wing, "flax", "optax", "keras"}), path


NEUTRAL = ("core", "engine", "data", "launch", "check", "laws", "formulas", "tasks", "planning")
NAMES_A_FRAMEWORK = re.compile(rf"(^|[/.:])({'|'.join(sorted(FRAMEWORKS))})([/.:]|$)")
NAMED = {  # where a neutral room names a framework in code, and why it may
    ("core/wings", "torch"),  # the wing of what names none: a default has to be something
    ("launch/signed_store", "torch.rendezvous.mapsto"),  # a key of torch.distributed's own store, which agents of nodes keep
}


def named_in_code(source: str) -> list[str]:
    """Texts that name a framework as code does: a module or a path. What people read holds blanks, or is a docstring."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in prose]
    return [text for text in texts if NAMES_A_FRAMEWORK.search(text) and not any(sign.isspace() for sign in text.strip())]


def test_no_neutral_room_names_a_framework_in_code() -> None:
    found = {
        (str(path.relative_to(SOURCE).with_suffix("")), text)
        for room in NEUTRAL
        for path in sources(SOURCE / room)
        for text in named_in_code(path.read_text())
    }
    assert found == NAMED


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import sys\nsys.modules['torch']", ["torch"]),
        ("x = '/jax/' in file", ["/jax/"]),
        ("name.startswith('torch.utils.data')", ["torch.utils.data"]),
        ("f'{x}'.removeprefix('torch.')", ["torch."]),
        ("'As torch.'\ntry_this = 'call torch.no_grad() less'\nbug = 'pytorch#12'", []),
    ],
)
def test_names_in_code_are_seen_and_prose_is_not(source: str, found: list[str]) -> None:
    assert named_in_code(source) == found


# -- the checks themselves ---------------------------------------------------------------------------------------------
def planted(tmp_path: Path, **files: str) -> dict[str, set[str]]:
    """The graph of a small house; `core_a` is the file core/a.py."""
    root = tmp_path / "mapsto"
    paths = {"__init__.py": "", **{f"{room}/__init__.py": "" for room in ("core", "data", "torch")}}
    for name, source in {**paths, **{f"{name.replace('_', '/')}.py": source for name, source in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)
    return graph(root)


def test_a_planted_trespass_is_seen(tmp_path: Path) -> None:
    edges = planted(
        tmp_path, core_a="def f():\n    from ..data import b\n", data_b="from mapsto.torch.c import x", torch_c="x = 1"
    )
    assert trespasses(edges) == [
        "mapsto.core.a imports mapsto.data.b", "mapsto.data.b imports mapsto.torch.c",
    ]  # fmt: skip


def test_a_planted_knot_is_seen_within_a_function_and_for_type_checkers_alone(tmp_path: Path) -> None:
    knot = planted(
        tmp_path / "a", core_a="from . import b", core_b="def f():\n    from .c import x\n", core_c="import mapsto.core.a"
    )
    assert cycle(knot) == ["mapsto.core.a", "mapsto.core.b", "mapsto.core.c", "mapsto.core.a"]
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import a\nelse:\n    a = None\n"
    assert cycle(planted(tmp_path / "b", core_a="from . import b", core_b=typed)) == [
        "mapsto.core.a",
        "mapsto.core.b",
        "mapsto.core.a",
    ]
