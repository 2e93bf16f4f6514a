"""Show what a spec would do, or what one mapping is and takes.

For a spec: the plan (what wraps what, in which order, and why), its parts, and what each of them is set to. For the name
of a mapping: its signature, its options with their defaults, what it says of itself, and where it is defined. No model is
built."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UnknownName, nearest, said_of
from ..core.load_spec import load_spec
from ..core.parts import stated
from ..core.plan import implied_mesh, plan, render
from ..core.recipes import load_file
from ..core.registry import Entry, place_of, reference_of, registry
from ..core.spec import Spec
from ..core.trust import registered_only, untrusted
from ..core.turns import Turn, turns_of
from ..core.typed import format_type, hints_of, kind_of_hint, shortened
from ..core.values import Part
from ..core.wings import DEFAULT
from ..engine.checked import checked
from ..engine.folder import SPEC, RunFolder
from . import trusting
from .console import heading, note, table, write

EPILOG = """\
examples:
  mapsto show recipes/digits.py                    the plan and the parts of a recipe
  mapsto show recipes/digits.py optimizer.lr=1e-3  with a setting changed
  mapsto show runs/NAME --yaml                     what a run was made of, as YAML that `mapsto train` takes
  mapsto show optimizer/adamw                      one mapping: options, defaults, where it is defined
  mapsto show layer/blur_pool --import recipes/digits.py"""


LINES = 30
"""The longest docstring that is shown whole."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="SPEC|KIND/NAME", help="a recipe, package.module:function, YAML, run folder, or name")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="changes to the spec")
    parser.add_argument("--wing", help="whose mapping is meant, where several wings have the name")
    parser.add_argument("--yaml", action="store_true", help="print the resolved spec as YAML")
    parser.add_argument("--import", dest="files", metavar="FILE", action="append", default=[], help="load a recipe file first")
    trusting.arguments(parser)


def run(options: argparse.Namespace) -> int:
    for file in options.files:
        load_file(file)
    entry = None if Path(options.what).exists() else find_entry(options.what, options.wing)
    if entry is None and options.wing is not None:
        options.parser.error("--wing goes with the name of a mapping; the wing of a spec is said as wing=NAME")
    if entry is not None:
        if options.yaml or options.overrides:
            options.parser.error(f"{entry.key} is one mapping; --yaml and overrides go with a spec")
        show_entry(entry)
        return 0
    if not options.yaml and not options.trust and Path(options.what).is_dir() and _show_untrusted(options.what):
        return 0
    if not options.yaml:  # which builds nothing
        trusting.admit(options, options.what)
    kept = Path(options.what).is_dir()
    spec = load_spec(options.what)
    if kept and not options.yaml:
        with said_of(Path(options.what) / SPEC):
            spec.check()
    spec = spec.override(*options.overrides)
    if options.yaml:
        write(spec.to_yaml().rstrip())
    else:
        show_spec(checked(spec, begins=not kept))
    return 0


def _show_untrusted(what: str) -> bool:
    """Where a run folder names code that has not been trusted, print its spec as it stands and what it names."""
    folder, codes = trusting.of_folder(what)
    new = untrusted(codes)
    if not new or registered_only():
        return False
    write((RunFolder(folder).spec_text()).rstrip())
    write()
    heading("names code that you have not trusted")
    table(("in", "names"), [(code.section, name) for code in new for name in code.names], indent="  ")
    note(f"nothing of it was imported. Show the plan, and trust it from now on: mapsto show {folder} --trust")
    return True


def find_entry(text: str, wing: str | None = None) -> Entry | None:
    """The registered mapping that a text names, `kind/name` or a name that only one kind has; None where it may be a spec.

    wing: whose it is, where it is not said as `wing/kind/name`. Raises UnknownName where it can only be a name and is none.
    """
    if wing is not None:
        registry.wing(wing)  # explains itself where there is none
    first, _, rest = text.partition("/")
    if first in registry.wings() and rest.count("/") == 1:
        wing, text = first, rest
    kind, slash, name = text.partition("/")
    if slash and kind.lower() in registry.kinds():
        found = [entry for entry in registry.entries(kind, wing) if entry.name == name]
        if len({entry.wing for entry in found if entry.wing}) > 1:
            raise UnknownName(registry.in_several(text, found))
        own = next((entry.wing for entry in found if entry.wing), wing or DEFAULT)
        registry.get(kind, name, own)  # explains itself where there is none, or two claim it
        return found[0]
    found = [entry for entry in registry.entries(wing=wing) if entry.name == text]
    if len({entry.kind for entry in found}) > 1:
        several = ", ".join(dict.fromkeys(registry.spelling(entry) for entry in found))
        raise UnknownName(f"{text!r} is the name of several mappings: say one of {several}")
    if found:
        return find_entry(found[0].key, wing)
    if text.isidentifier():  # a spec has a dot, a colon or a slash in it
        names = {entry.name for entry in registry.entries()}
        raise UnknownName(f"there is no mapping {text!r}, nor a run folder or spec file of that name; {_close(text, names)}")
    return None


def _close(name: str, names: set[str]) -> str:
    """The nearest name alone: all names of all kinds would be too many to read."""
    hint = nearest(name, names).partition("; ")[2]
    return hint or "see them with: mapsto list"


# -- a mapping -----------------------------------------------------------------------------------------------------------
def show_entry(entry: Entry) -> None:
    """Print one mapping: what it maps, its options, its text, its place."""
    target, kind = registry.get(entry.kind, entry.name, entry.wing or DEFAULT), registry.kind(entry.kind)
    heading(f"{registry.spelling(entry)}  ({kind.signature})")
    write(f"  {entry.reference}, from {entry.origin}" + (f", of the wing {entry.wing}" if entry.wing else ""))
    write(f"  {place_of(target)}")
    if text := _text(target):
        write()
        write(text)
    write()
    rows = list(_options(entry, target))
    if rows:
        heading("options")
        table(("name", "type", "default"), rows, indent="  ")
    else:
        write("no options")
    write()
    of = f" of `wing: {entry.wing}`" if entry.wing not in (None, DEFAULT) else ""
    write(f"in a spec{of}: {_usage(entry, target)}")


def _text(target: Any) -> str:
    """The docstring: of a class whose own says nothing, of its `__init__`."""
    if inspect.isclass(target):
        own = vars(target).get("__doc__") or vars(target).get("__init__", target.__init__).__doc__
    else:
        own = getattr(target, "__doc__", None)
    lines = inspect.cleandoc(own or "").rstrip().splitlines()
    if len(lines) <= LINES:
        return "\n".join(lines)
    first = lines[: lines.index("")] if "" in lines[:LINES] else lines[:LINES]
    return "\n".join([*first, f"(the rest: python -m pydoc {reference_of(target).replace(':', '.')})"])


def _options(entry: Entry, target: Any) -> Iterator[tuple[str, str, str]]:
    """(name, type, default) of what a spec may state."""
    known, hints = stated(target, registry.kind(entry.kind, entry.wing or DEFAULT)), hints_of(target)
    for name, parameter in known.named.items():
        default = "required" if parameter.default is parameter.empty else shortened(parameter.default)
        yield name, "" if name not in hints else _type(hints[name]), default
    if known.open_ended:
        yield "...", "", "any other name is taken too"


def _type(hint: Any) -> str:
    """A hint in words; one that wants a mapping of a kind says which kind."""
    kind = kind_of_hint(hint)
    return f"a {kind.name}" if kind is not None else format_type(hint).replace("collections.abc.", "")


def _usage(entry: Entry, target: Any) -> str:
    named = stated(target, registry.kind(entry.kind, entry.wing or DEFAULT)).named
    needed = [f"{name}: ..." for name, parameter in named.items() if parameter.default is parameter.empty]
    return "{" + ", ".join([f"use: {entry.name}", *needed]) + "}"


# -- a spec --------------------------------------------------------------------------------------------------------------
def show_spec(spec: Spec) -> None:
    """Print the plan, the parts and the settings of a checked spec."""
    heading("plan, outermost first")
    whole = spec.plan()
    if spec.turns is None or whole:
        write(textwrap.indent(render(whole).rstrip(), "  "))
    if spec.turns is not None:
        write(f"  a step takes turns: {', then '.join(spec.turns)}")
    write()
    for name, turn in turns_of(spec.turns, task=spec.task, optimizer=spec.optimizer, schedule=spec.schedule).items():
        heading(f"turn {name}: {_turn(turn)}")
        mesh = implied_mesh(spec.mesh, spec.micro_shards, spec.strict)
        write(textwrap.indent(render(plan(turn.middleware, mesh, spec.wing, f"turns.{name}.middleware")).rstrip(), "  "))
        write()
    heading("parts")
    table(("path", "is", "with"), list(_parts(spec)), indent="  ")
    write()
    heading("settings")
    table(("name", "value"), list(_settings(spec)), indent="  ")


def _turn(turn: Turn) -> str:
    """When a turn comes, and what it updates."""
    when = "at each step" if turn.every == 1 else f"at every {turn.every} steps"
    updates = "one update" if turn.times == 1 else f"{turn.times} updates"
    return f"{updates} of {', '.join(turn.parameters)} {when}{', shared with other turns' if turn.shared else ''}"


def _parts(spec: Spec) -> Iterator[tuple[str, str, str]]:
    for path, kind, value in spec.parts():
        yield from _part(path, kind, value)


def _part(path: str, kind: str | None, value: Any) -> Iterator[tuple[str, str, str]]:
    """A row for the part, then one for each part within it."""
    if not isinstance(value, Part):
        yield path, _live(value), ""
        return
    plain = {k: v for k, v in value.args.items() if not any(True for _ in _nested(v, k))}
    label = f"{kind}/{value.name}" if kind and isinstance(value.use, str) and "/" not in value.use + value.name else value.name
    if isinstance(value.use, str) and ":" in value.use:
        label = value.use
    yield path, label, ", ".join(f"{k}={_short(v)}" for k, v in plain.items())
    for name, inner in value.args.items():
        for where, part in _nested(inner, f"{path}.{name}"):
            found = registry.kind_of_parameter(name)
            yield from _part(where, found.name if found else None, part)


def _nested(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, part) of every part directly within an argument."""
    if isinstance(value, Part):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _nested(inner, f"{path}.{key}")
    elif isinstance(value, (tuple, list)):
        for i, inner in enumerate(value):
            yield from _nested(inner, f"{path}.{inner.name if isinstance(inner, Part) else i}")


def _settings(spec: Spec) -> Iterator[tuple[str, str]]:
    plan_of = spec.checkpoint
    for name in ("name", "wing", "device", "seed", "steps", "epochs", "log_every", "evaluate_every", "micro_shards", "strict"):
        value = getattr(spec, name)
        yield name, "not set" if value is None else str(value)
    yield "checkpoint", ", ".join(f"{k}={_short(v)}" for k, v in vars(plan_of).items())
    if spec.imports:
        yield "imports", ", ".join(spec.imports)


def _live(value: Any) -> str:
    return f"a live {type(value).__module__}.{type(value).__qualname__}"


def _short(value: Any) -> str:
    """A value in few characters; an array by its shape."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__}{tuple(value.shape)} of {value.dtype}"
    return shortened(value, 60)
