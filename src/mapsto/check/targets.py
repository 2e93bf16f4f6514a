"""Targets: what a person names (a registered name, an import path, a distribution, a spec) as subjects with their kinds."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..core.errors import MapstoError, SpecError, UnknownName, nearest
from ..core.law_wings import complete, law_wings
from ..core.laws import Example, Subject, example_of
from ..core.load_spec import load_spec
from ..core.parts import INJECTED, Checked, Part, check
from ..core.recipes import load_file, loaded_files
from ..core.registry import Entry, reference_of, registry
from ..core.spec import Spec
from ..core.wings import DEFAULT, lineage

UNCHECKED = ("law", "kind")
"""Kinds that are not mappings of a run."""
REBUILT = ("model", "layer", "source", "order", "transform")
"""Kinds whose mapping is what calling the target gives, whatever laws ask of it."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a target names, by the reference under which another process finds it again."""

    kind: str
    label: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A target, or a part of one, that cannot be used."""

    subject: str
    kind: str
    reason: str


def named(target: str, kind: str | None = None, wing: str | None = None) -> list[Named | Problem]:
    """What a target names. Imports nothing where it is a registered name. Raises UnknownName, SpecError."""
    _known_wing(wing)
    if _is_spec(target, kind):
        return [f if isinstance(f, Problem) else _named_by(f) for f in of_spec(target)]
    if ":" in target:
        return [_named_by(of_reference(target, kind, wing))]
    found = [(e.kind, registry.spelling(e)) for e in entries(target, kind, wing)]
    return [Named(kind=family, label=name, reference=name) for family, name in found]


def _known_wing(wing: str | None) -> None:
    """Raises UnknownName for a wing that is said and not there."""
    if wing is not None:
        registry.wing(wing)


def _named_by(subject: Subject) -> Named:
    return Named(kind=subject.kind, label=subject.label, reference=subject.reference)


def subjects(targets: Iterable[str], *, kind: str | None = None, wing: str | None = None) -> list[Subject]:
    """Every subject that the targets name, each once, imported here. Raises UnknownName, SpecError."""
    found: dict[tuple[str, str], Subject] = {}
    _known_wing(wing)
    for target in targets:
        for subject in _subjects(target, kind, wing):
            found.setdefault((subject.kind, subject.label), subject)
    return list(found.values())


def _subjects(target: str, kind: str | None, wing: str | None) -> Iterator[Subject]:
    if _is_spec(target, kind):
        for found in of_spec(target):
            if isinstance(found, Problem):
                raise SpecError(f"{found.subject}: {found.reason}")
            yield found
    elif ":" in target:
        yield of_reference(target, kind, wing)
    else:
        yield from (of_entry(entry, wing) for entry in entries(target, kind, wing))


# -- registered names and distributions ------------------------------------------------------------------------------
def entries(target: str, kind: str | None = None, wing: str | None = None) -> list[Entry]:
    """The registered mappings that a name, a kind or a distribution names, of a wing where one is said; imports nothing.

    Raises UnknownName.
    """
    if found := _by_name(target, kind, wing):
        return found
    if target in registry.kinds() and kind is None:
        if target in UNCHECKED:
            raise UnknownName(f"{target} is no kind of mapping: it has no laws of its own")
        raise UnknownName(f"no {target} is registered: there is nothing to check")
    installed = _distribution(target, kind, wing)
    if installed:
        return installed
    if installed is not None:
        raise UnknownName(
            f"the distribution {target} registers no mapping" + (f" of kind {kind}" if kind else "") + _left_out()
        )
    if wrong := _misspelt(target):
        raise UnknownName(wrong)
    names = {name for e in registry.entries(kind, wing) if e.kind not in UNCHECKED for name in (e.name, e.key)}
    raise UnknownName(
        f"{target!r} is no registered name, kind, installed distribution, import path (package.module:Thing or file.py:Thing) "
        f"or spec; {_close(target, names)}" + _left_out()
    )


def _left_out() -> str:
    """The entry points that are left out, one of which may be what is meant."""
    return "".join(f"\n(left out: {said})" for said in registry.misnamed())


def _misspelt(target: str) -> str | None:
    """What is wrong with the wing of `wing/kind/name` or the kind of `kind/name`, where one is not there."""
    words = target.split("/")
    if len(words) == 3 and words[0] not in registry.wings():
        return f"{target}: there is no wing {words[0]!r}; {nearest(words[0], registry.wings())}"
    kind = words[-2] if len(words) in (2, 3) else None
    if kind is not None and kind not in registry.kinds():
        return f"{target}: there is no kind {kind!r}; {nearest(kind, registry.kinds())}"
    return None


def _close(name: str, allowed: set[str]) -> str:
    """The nearest names only, since all of them would fill the screen."""
    hint = nearest(name, allowed).rpartition("; did you mean ")
    return f"did you mean {hint[2]}" if hint[1] else "`mapsto list` prints what is registered"


def _by_name(target: str, kind: str | None, wing: str | None) -> list[Entry]:
    if target.count("/") == 2 and target.partition("/")[0] in registry.wings():
        wing, _, target = target.partition("/")
        return [e for e in _by_name(target, kind, wing) if e.wing == wing]
    family, slash, name = target.partition("/")
    if slash:
        if family not in registry.kinds() or family in UNCHECKED or kind not in (None, family):
            return []
        return _of_one_wing(target, _unrivalled([e for e in registry.entries(family, wing) if e.name == name]))
    if target in registry.kinds() and kind is None:
        return _unrivalled([e for e in registry.entries(target, wing) if e.kind not in UNCHECKED])
    hits = _unrivalled([e for e in registry.entries(kind, wing) if e.name == target and e.kind not in UNCHECKED])
    if len({e.kind for e in hits}) > 1:
        raise UnknownName(f"{target!r} may be {' or '.join(registry.spelling(e) for e in hits)}: name one of them")
    return _of_one_wing(target, hits)


def _of_one_wing(target: str, hits: list[Entry]) -> list[Entry]:
    """The entries of one name. Raises UnknownName where several wings have it, so that none is taken for the other."""
    if len({e.wing for e in hits if e.wing}) > 1:
        raise UnknownName(registry.in_several(target, hits))
    return hits


def _unrivalled(found: list[Entry]) -> list[Entry]:
    """One entry a name in a wing: where two distributions claim it, using it tells so."""
    return list({e.full: e for e in found}.values())


def _distribution(target: str, kind: str | None, wing: str | None) -> list[Entry] | None:
    """What a distribution registers, or None where it is not installed. Names are compared as package indexes do (PEP 503)."""
    wanted = re.sub(r"[-_.]+", "-", target).lower()
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", target):
        return None
    try:
        metadata.distribution(target)
    except (metadata.PackageNotFoundError, ValueError):
        return None
    return [
        e
        for e in registry.entries(kind, wing)
        if e.kind not in UNCHECKED and e.point is not None and e.point.dist is not None
        and re.sub(r"[-_.]+", "-", e.point.dist.name).lower() == wanted
    ]  # fmt: skip


def of_entry(entry: Entry, wing: str | None = None) -> Subject:
    """The subject of a registered name. wing: that of one which is registered as neutral."""
    target, name = registry.get(entry.kind, entry.name, entry.wing), registry.spelling(entry)
    own = entry.wing or wing_of(target, entry.kind, name, wing)
    if own is not None:
        registry.get(entry.kind, entry.name, own)  # where the neutral room and the wing both have it, this tells
    return complete(Subject(kind=entry.kind, label=name, reference=name, target=target, example=_stated(target), wing=own))


# -- import paths and objects ----------------------------------------------------------------------------------------
def of_reference(reference: str, kind: str | None = None, wing: str | None = None) -> Subject:
    """The subject of `package.module:Thing` or `file.py:Thing`: a class, a factory or an instance."""
    where, _, name = reference.rpartition(":")
    if where.endswith(".py"):
        module: Any = load_file(where)
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise UnknownName(f"{reference!r}: no module named {error.name!r}") from None
    target = module
    for step in name.split("."):
        if not hasattr(target, step):
            public = {n for n, v in vars(module).items() if not n.startswith("_") and callable(v)}
            raise UnknownName(f"{reference!r}: {where} has no {step!r}; {_close(step, public)}")
        target = getattr(target, step)
    return of_target(target, kind, wing=wing, reference=reference)


def of_target(target: Any, kind: str | None = None, *, wing: str | None = None, reference: str | None = None) -> Subject:
    """The subject of an object at hand. Raises SpecError where its kind or its wing cannot be told."""
    found = kind or kind_of_object(target)
    instance = not inspect.isclass(target) and not inspect.isroutine(target) and not isinstance(target, Part)
    label = reference or reference_of(type(target) if instance else target)
    if found is None:
        kinds = ", ".join(k for k in registry.kinds() if k not in UNCHECKED)
        raise SpecError(f"{label}: its kind cannot be told; say it with --kind (kind=... in Python), one of {kinds}")
    registry.kind(found)
    make = (lambda: copy.deepcopy(target)) if instance and found not in ("loss", "transform") else None
    elsewhere = reference or ("" if instance else _found_elsewhere(target))
    own = wing_of(target, found, label, wing)
    stated = _stated(target)
    return complete(Subject(kind=found, label=label, reference=elsewhere, target=target, example=stated, make=make, wing=own))


MODULES = ("model", "layer")
"""Kinds whose mappings are a framework's own modules."""


def wing_of(target: Any, kind: str, label: str, said: str | None = None) -> str | None:
    """The wing whose laws a target owes; None for kinds that serve all wings.

    It is the one that is said, that of the framework whose class or function it is, or that of the framework which its code
    names; what names none is the default wing's, as a spec is that names none. Raises SpecError for a module of no framework
    that has a wing, UnknownName where no such wing is there.
    """
    if not registry.kind(kind).native:
        return None
    while isinstance(target, functools.partial):
        target = target.func
    if said is not None:
        return registry.wing(said).name
    if found := registry.owner(target) or registry_wing(target, kind) or _named_in(target):
        return found
    if kind in MODULES and not inspect.isroutine(target):
        there = ", ".join(registry.wings())
        raise SpecError(
            f"{label}: a {kind} is a module of a framework, and this one is of none that has a wing (there is {there}); "
            "install what brings the wing, or say it with --wing (wing=... in Python)"
        )
    return DEFAULT


def _named_in(target: Any) -> str | None:
    """The wing of the framework that the code of a function, or of a class's methods, and their hints name."""
    for thing in lineage(target):
        for code in vars(thing).values() if inspect.isclass(thing) else [thing]:
            code = getattr(code, "__func__", code)
            if not inspect.isfunction(code):
                continue
            with contextlib.suppress(Exception):  # hints that name what is not there
                if found := next(filter(None, map(registry.owner, typing.get_type_hints(code).values())), None):
                    return found
            used = [code.__globals__[name] for name in code.__code__.co_names if name in code.__globals__]
            if found := next(filter(None, (_owner_of_used(value) for value in used)), None):
                return found
    return None


def _owner_of_used(value: Any) -> str | None:
    """The wing of a module, a class or a function that code names."""
    if inspect.ismodule(value):
        return next((f.name for f in registry.frameworks() if f.has(value.__name__)), None)
    return registry.owner(value) if inspect.isclass(value) or inspect.isroutine(value) else None


def registry_wing(target: Any, kind: str) -> str | None:
    """The wing in which a target is registered as a kind, or None."""
    return next((e.wing for e in registry.entries(kind) if e.target is target or e.reference == reference_of(target)), None)


def _found_elsewhere(target: Any) -> str:
    """The reference under which another process finds a class or function; empty where none can."""
    module, _, name = reference_of(target).partition(":")
    if "<" in name:
        return ""
    found = sys.modules.get(module)
    if module == "__main__" or module in loaded_files():
        file = getattr(found, "__file__", None)
        return f"{file}:{name}" if file else ""
    return f"{module}:{name}"


def kind_of_object(target: Any) -> str | None:
    """The kind under which it is registered, else what a wing knows it as, or the class that a factory says it returns."""
    if (known := registry_kind(target)) is not None:
        return known
    candidates = [target]
    if inspect.isroutine(target):
        with contextlib.suppress(Exception):  # hints that name what is not there
            candidates.append(typing.get_type_hints(target).get("return"))
    return next((k for c in candidates if c is not None for w in law_wings() if (k := w.infer_kind(c))), None)


def registry_kind(target: Any) -> str | None:
    """The kind under which a target is registered, or None."""
    for entry in registry.entries():
        if entry.target is target or entry.reference == reference_of(target):
            return entry.kind
    return None


# -- specs -----------------------------------------------------------------------------------------------------------
def _is_spec(target: str, kind: str | None) -> bool:
    path, _, _ = target.partition(":")
    if Path(target).is_dir():  # the folder of a run, but not the source of a package that is named
        return (Path(target) / "spec.yaml").exists() or not _distribution(target, kind, None)
    return Path(path).suffix in (".py", ".yaml", ".yml") and not _names_component(target, kind)


def is_package(target: str) -> bool:
    """Whether a folder is there that is no run's, and a distribution of its name is what is meant: as where its source is."""
    return Path(target).is_dir() and not _is_spec(target, None)


def _names_component(target: str, kind: str | None) -> bool:
    """Whether `file.py:Name` names a component rather than a function that returns a spec."""
    path, _, name = target.partition(":")
    if not name or Path(path).suffix != ".py" or kind is not None:
        return bool(name) and kind is not None
    found = getattr(load_file(path), name, None)
    if inspect.isclass(found) or not callable(found):
        return True  # where there is none, the error that names what is there is the better one
    return kind_of_object(found) is not None


@functools.lru_cache(maxsize=8)
def of_spec(argument: str) -> tuple[Subject | Problem, ...]:
    """Every part of a spec, nested ones too, with the arguments it is given there; then the composed program."""
    try:
        spec: Spec = load_spec(argument)
    except SpecError as error:
        if "mapsto.Spec is wanted" in str(error):
            raise SpecError(f"{error}; where it makes a layer, say --kind layer") from None
        raise
    spec.load_imports()
    found: list[Subject | Problem] = []
    for path, kind, part in spec.parts():
        if not isinstance(part, Part):
            made = of_target(part, kind, wing=spec.wing)
            found.append(replace(made, label=path, reference=f"{argument}#{path}", spec=spec))
            continue
        try:
            checked = check(part, kind, path, injected=INJECTED, wing=spec.wing)
        except MapstoError as error:
            found.append(Problem(subject=path, kind=kind, reason=str(error)))
            continue
        found += [_of_part(each, argument, spec) for each in _nested(checked)]
    program = Subject(kind="program", label=spec.name, reference=f"{argument}#", target=spec, example=Example(), wing=spec.wing)
    return (*found, complete(program))


def _nested(checked: Checked) -> Iterator[Checked]:
    """A part and, below it, every part among its arguments that has a kind."""
    if checked.kind is not None:
        yield checked
    for value in checked.args.values():
        for inner in value.values() if isinstance(value, Mapping) else value if type(value) in (list, tuple) else [value]:
            if isinstance(inner, Checked):
                yield from _nested(inner)


def _of_part(checked: Checked, argument: str, spec: Spec) -> Subject:
    """A part as a subject, with its arguments as those of its example; what holds parts of its own is built anew each time.

    A reader is judged on records that its laws know, with its own options: its source and transforms are subjects themselves,
    and a function of its own records (such as a length to bucket by) says nothing of those.
    """
    assert checked.kind is not None
    kind, stated, seed = checked.kind, _stated(checked.target), spec.seed
    make = _builder(checked, seed) if kind.name in REBUILT and not kind.is_mapping(checked.target) else None
    kept = dict(checked.args)
    if kind.name == "reader":
        kept = {n: v for n, v in kept.items() if not _holds(v, ("source", "transform")) and not _of_records(v)}
    args = {name: _plain(value, seed) for name, value in kept.items()}
    in_parts = {"unused_parameters"} if kind.name == "model" and spec.turns is not None else set()  # which turns call
    example = replace(stated, args={**stated.args, **args}, tags=stated.tags | in_parts)
    subject = Subject(
        kind=kind.name, label=checked.path, reference=f"{argument}#{checked.path}", target=checked.target, example=example,
        make=make, wing=spec.wing if kind.native else None, spec=spec,
    )  # fmt: skip
    return complete(subject)


def _of_records(value: Any) -> bool:
    """Whether an argument is a function of a reader's own records, or an order by a field of them."""
    return inspect.isroutine(value) or (isinstance(value, Checked) and hasattr(value.target, "over_source"))


def _holds(value: Any, kinds: tuple[str, ...]) -> bool:
    """Whether an argument is a part of one of the kinds, or a list of such."""
    items = value if type(value) in (list, tuple) else [value]
    return any(isinstance(v, Checked) and v.kind is not None and v.kind.name in kinds for v in items)


def _builder(checked: Checked, seed: int) -> Callable[[], Any]:
    return lambda: checked.build(injected=_injected(checked, seed))


def _injected(checked: Checked, seed: int) -> dict[str, int]:
    """The run's seed; an order without one of its own is given it later, by a reader or by the laws, which ask for others."""
    return {} if checked.kind is not None and checked.kind.name == "order" else {"seed": seed}


def _plain(value: Any, seed: int) -> Any:
    """An argument with the parts in it built."""
    if isinstance(value, Checked):
        return value.build(injected=_injected(value, seed)) if value.kind is None or not value.kind.given else value.build
    if type(value) in (list, tuple):
        return type(value)(_plain(v, seed) for v in value)
    return {k: _plain(v, seed) for k, v in value.items()} if isinstance(value, dict) else value


# -- across processes ------------------------------------------------------------------------------------------------
def find(reference: str, kind: str, wing: str | None = None) -> Subject:
    """The subject that another process named by `reference`."""
    if "#" in reference:
        argument, _, path = reference.rpartition("#")
        for subject in of_spec(argument):
            if isinstance(subject, Subject) and subject.reference == reference and subject.kind == kind:
                return subject
        raise UnknownName(f"{argument} has no part {path!r}")
    if ":" in reference:
        return of_reference(reference, kind, wing)
    found = _by_name(reference, kind, wing)
    if not found:
        raise UnknownName(f"there is no {reference!r} here; `mapsto list` prints what is registered")
    return of_entry(found[0], wing)


def files_of(subject: Subject) -> list[str]:
    """The files by which a subject is defined: those of its class or factory, of the classes that it inherits from, and, of a
    part of a spec, of the spec and of the parts within it (of a program: all parts)."""
    argument, _, part = subject.reference.partition("#")
    within = of_spec(argument) if "#" in subject.reference else ()
    parts = [s for s in within if isinstance(s, Subject) and s.reference.startswith(f"{argument}#{part}{'.' if part else ''}")]
    names = [getattr(thing, "__module__", None) for s in (subject, *parts) for thing in lineage(s.target)]
    path, colon, _ = argument.rpartition(":")
    names.append(path if colon else None)  # of the module that it is found in, which need not be the one that defines it
    found = {getattr(sys.modules.get(name or ""), "__file__", None) for name in names}
    run = str(Path(argument) / "spec.yaml") if within else ""
    found |= {p for p in (argument, path, run) if Path(p).suffix in (".py", ".yaml", ".yml") and Path(p).is_file()}
    return sorted(file for file in found if file)


def _stated(target: Any) -> Example:
    try:
        return example_of(target) or Example()
    except TypeError:
        return Example()


def recipe_files() -> list[str]:
    """Recipe files that workers must load to find what is registered in them."""
    return list(loaded_files().values())
